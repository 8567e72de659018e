"""The names of a log line's values at the trackers: those of TRL, so that boards made for TRL work.

    reported({"step": 4, "reward_mean": 0.5, "flags": ["…"]})  →  {"train/reward": 0.5}

TRL's GRPOTrainer logs `reward`, `completions/mean_length`, …, and transformers puts `train/` before each and
turns `eval_` into `eval/`. Values that TRL does not have keep their own name behind `train/` or `eval/`.
"""

import math
from typing import Any

# ours → TRL's (GRPOTrainer._metrics and transformers' Trainer.log)
NAMES = {
    "epoch": "train/epoch",
    "lr": "train/learning_rate",
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "kl": "train/kl",
    "entropy": "train/entropy",
    "clip_ratio": "train/clip_ratio/region_mean",
    "clip_ratio_low": "train/clip_ratio/low_mean",
    "clip_ratio_high": "train/clip_ratio/high_mean",
    "importance_sampling_ratio_mean": "train/sampling/importance_sampling_ratio/mean",
    "importance_sampling_ratio_max": "train/sampling/importance_sampling_ratio/max",
    "reward_mean": "train/reward",
    "reward_std": "train/reward_std",
    "zero_std_fraction": "train/frac_reward_zero_std",
    "completion_length_mean": "train/completions/mean_length",
    "truncated_fraction": "train/completions/clipped_ratio",
    "tools/calls_mean": "train/tools/call_frequency",
    "tools/failure_rate": "train/tools/failure_frequency",
    "step_seconds": "train/step_time",
    "eval_length_mean": "eval/completions/mean_length",
    "eval_truncated_fraction": "eval/completions/clipped_ratio",
}
REWARD = "rewards/"  # rewards/NAME → train/rewards/NAME/mean
EVALUATION = "eval_"

HEAD = """\
## Names at the trackers

`report_to` reports the values of `training_log.jsonl` under TRL's names, so that boards made for TRL work.
Any other value keeps its name: `repetition` is `train/repetition`, `eval_accuracy` is `eval/accuracy`.

| training_log.jsonl | tracker |
|---|---|
"""


def name_of(key: str) -> str:
    """The name of a log line's key at the trackers."""
    if key in NAMES:
        return NAMES[key]
    if key.startswith(REWARD):
        return f"train/{key}/mean"
    if key.startswith(EVALUATION):
        return f"eval/{key.removeprefix(EVALUATION)}"
    return f"train/{key}"


def reported(line: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a log line by their names at the trackers.

    `skipped`, the reason for which an update was skipped, becomes 1, and 0 in every other step.
    """
    is_step = "reward_mean" in line
    numbers = {key: value for key, value in line.items() if is_finite(value) and key != "step"}
    found = {name_of(key): float(value) for key, value in numbers.items()}
    return found | ({name_of("skipped"): float("skipped" in line)} if is_step else {})


def is_finite(value: Any) -> bool:
    """True for a number that a tracker can draw."""
    return isinstance(value, int | float) and math.isfinite(value)


def names_table() -> str:
    """The table of both names, for configs/KEYS.md."""
    pairs = [*NAMES.items(), (f"{REWARD}NAME", name_of(f"{REWARD}NAME"))]
    return HEAD + "".join(f"| `{ours}` | `{theirs}` |\n" for ours, theirs in pairs)
