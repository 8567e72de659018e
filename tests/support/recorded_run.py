"""A run of three steps as its events tell it."""

from pathlib import Path
from typing import Any

from grpo_cli.engine.events import (
    CheckpointSaved,
    EvaluationDone,
    Event,
    Notice,
    RolloutProgress,
    RunFinished,
    RunStarted,
    StepFinished,
)
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason

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


def step(number: int, reward: float, completion: str = "<answer>3</answer>", **more: Any) -> StepFinished:
    """A finished step with one completion."""
    metrics: dict[str, Any] = {
        "step": number,
        "lr": 3e-5,
        "loss": 0.0125,
        "kl": None,
        "reward_mean": reward,
        "completion_length_mean": 31.24,
        "truncated_fraction": 0.03,
        "rollout_seconds": 0.41,
        "update_seconds": 0.5,
        "step_seconds": 0.91,
        "rollout_tokens_per_second": 1204.4,
        "peak_memory_gb": 0.61,
    }
    example = Example(messages=[{"role": "user", "content": "What is 1 + 2?"}], answer="3")
    rollout = Rollout(
        token_ids=[5],
        logprobs=[-0.1],
        entropies=[0.3],
        stop_reason=StopReason.EOS,
        text=completion,
        rewards={"correctness": 1.0, "int": 0.5},
        reward=1.5,
    )
    return StepFinished(number, metrics | more, [RolloutGroup(example, [1, 2], [rollout])])


def whole_run() -> list[Event]:
    """A run of three steps with two evaluations."""
    return [
        Notice("a slow matrix product"),
        STARTED,
        RolloutProgress("evaluation", 100, 200, 3000),
        EvaluationDone(0, BEFORE | {"eval_seconds": 3.14}),
        *(step(number, 0.2 * number) for number in (1, 2, 3)),
        EvaluationDone(3, AFTER | {"eval_seconds": 3.0}),
        CheckpointSaved(3, RUN / "checkpoint-3"),
        FINISHED,
    ]
