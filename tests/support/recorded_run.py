"""A run of three steps as its events tell it."""

from pathlib import Path

from grpo_cli.engine.events import (
    RunFinished,
    RunStarted,
)

RUN = Path("outputs/smoke-test")
STARTED = RunStarted(
    run_dir=RUN,
    total_steps=3,
    model="tiny",
    parameters=847_872,
    trainable_parameters=847_872,
    device="cpu",
    train_examples=10_000,
    skipped_prompts=2,
)
BEFORE = {
    "step": 0,
    "eval_accuracy": 0.42,
    "eval_samples": 200,
    "eval_format": 0.84,
    "eval_length_mean": 30.5,
}
AFTER = {
    "step": 3,
    "eval_accuracy": 0.915,
    "eval_samples": 200,
    "eval_format": 1.0,
    "eval_length_mean": 43.04,
}
FINISHED = RunFinished(run_dir=RUN, final=RUN / "final", steps=3, seconds=84.2, first=BEFORE, last=AFTER)
