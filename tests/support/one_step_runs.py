"""Runs of one short step from relative names: a model, data and a reward in the current folder."""

from pathlib import Path
from typing import Any

from grpo_cli.engine.train import train
from tests.support.shallow_model import shallow_model
from tests.support.small_runs import small

QUICK = {
    "model_name": shallow_model(),
    "max_steps": 1,
    "batch_size": 1,
    "num_generations": 2,
    "max_new_tokens": 4,
    "eval_max_new_tokens": 4,
    "max_train_samples": 4,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
}
ROWS = [{"question": f"{n} + 1?", "answer": str(n + 1), "hint": "odd" if n % 2 else "even"} for n in range(4)]
REWARD = "def length(completions, hint, **_):\n    return [float(len(h)) for h in hint]\n"


def trained(place: Path, **changes: Any) -> Path:
    """The folder of a run of one step from relative names."""
    names = {"model_name": "base [v1]", "dataset": "data", "reward_functions": ["r.py:length"]}
    config = small(
        place.parent / "out *", **{**QUICK, **names, "eval_steps": 1, "eval_samples": 2, **changes}
    )
    train(config)
    return config.run_dir
