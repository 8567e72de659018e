"""Whole runs of a few small steps with the embedded model, and what their folders hold."""

import json
from pathlib import Path
from typing import Any

from grpo_cli.config.schema import Config
from tests.support import letter_reward
from tests.support.shallow_model import shallow_model

STEP_KEYS = {
    "step", "epoch", "lr", "loss", "grad_norm", "kl", "entropy", "ratio_deviation", "clip_ratio",
    "clip_ratio_low", "clip_ratio_high", "reward_mean", "reward_std",
    "rewards/correctness", "zero_std_fraction", "completion_length_mean", "truncated_fraction", "repetition",
    "rollout_seconds", "update_seconds", "step_seconds", "rollout_tokens_per_second", "peak_memory_gb",
    "cache_memory_gb",
}  # fmt: skip


def small(folder: Path, **changes: Any) -> Config:
    """A run of two steps that takes a second or two."""
    settings = {
        "model_name": "tiny",
        "dataset": "arithmetic",
        "max_train_samples": 500,  # all 10,000 would take half of the run's time
        "system_prompt": "",
        "completion_prefix": "",
        "reward_functions": ["correctness"],
        "temperature": 1.0,
        "num_generations": 8,
        "batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_new_tokens": 40,
        "eval_max_new_tokens": 40,
        "learning_rate": 1e-4,
        "max_grad_norm": 1.0,
        "max_steps": 2,
        "eval_steps": 0,
        "save_steps": 0,
        "keep_rollouts": 0,  # a file for each step: test_rollout_log.py
        "output_dir": str(folder),
        "run_name": "run",
    }
    return Config(**(settings | changes))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


TIMES = {"rollout_seconds", "update_seconds", "step_seconds", "rollout_tokens_per_second", "eval_seconds"}
# Few examples, so that epochs end inside the run, of a model whose answers need not be right.
SHORT = {
    "model_name": shallow_model(),
    "max_train_samples": 10,
    "num_epochs": 3,
    "max_steps": 6,
    "batch_size": 2,
    "num_generations": 4,
    "max_new_tokens": 12,
    "eval_max_new_tokens": 12,
    "temperature": 1.5,
    "reward_functions": [f"{letter_reward.__file__}:mean_letter"],
    "log_completions": 2,
}


def log_without_times(folder: Path) -> list[dict[str, Any]]:
    kept = [{k: v for k, v in line.items() if k not in TIMES} for line in lines(folder)]
    return [
        {k: v for k, v in line.items() if k not in ("peak_memory_gb", "cache_memory_gb")} for line in kept
    ]


def weights(folder: Path) -> bytes:
    (file,) = [
        path for name in ("model", "adapters") for path in (folder / "final").glob(f"{name}.safetensors")
    ]
    return file.read_bytes()
