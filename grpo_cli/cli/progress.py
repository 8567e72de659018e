"""State of a training run so far, collected from the engine's events. Draws nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from grpo_cli.cli.time_left import EVALUATION, SAVE, STEP, TimeLeft
from grpo_cli.engine.events import (
    CheckpointSaved,
    EvaluationDone,
    Event,
    RolloutProgress,
    RunFinished,
    RunStarted,
    StepFinished,
    UpdateProgress,
)
from grpo_cli.types import RolloutGroup


@dataclass(frozen=True, kw_only=True)
class ShownCompletion:
    """One completion to show."""

    prompt: str
    completion: str
    answer: str
    reward: float | None  # None: no reward applies
    rewards: dict[str, float | None]
    stop_reason: str


@dataclass(kw_only=True)
class RunProgress:
    """The state of a run: pass every event to `take` in order. `clock` counts seconds."""

    clock: Callable[[], float] = time.monotonic
    run: RunStarted | None = None
    step: int = 0
    steps: list[int] = field(default_factory=list)  # the steps of the histories below
    rewards: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    teaching: list[float] = field(default_factory=list)  # share of groups whose rewards differ
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)  # the latest step's line
    machine: str = ""  # what was done last against pressure on the machine
    sample: ShownCompletion | None = None
    doing: RolloutProgress | UpdateProgress | None = None
    finished: RunFinished | None = None
    began: float = 0.0
    time_left: TimeLeft | None = None

    def take(self, event: Event) -> None:
        """Update the state with one event."""
        match event:
            case RunStarted():
                self.run, self.step, self.began = event, event.resumed_at, self.clock()
                self.evaluations = list(event.evaluations)
                self.time_left = TimeLeft(event, self.clock)
            case RolloutProgress() | UpdateProgress():
                self.doing = event
            case StepFinished():
                self.take_step(event)
            case EvaluationDone():
                self.doing = None
                self.evaluations.append(event.metrics)
                self.did(EVALUATION, event.step)
            case CheckpointSaved():
                self.did(SAVE, event.step)
            case RunFinished():
                self.doing, self.finished = None, event

    def take_step(self, event: StepFinished) -> None:
        """Update the state with a finished step."""
        self.did(STEP, event.step)
        self.doing = None
        self.step, self.metrics = event.step, event.metrics
        self.steps.append(event.step)
        self.rewards.append(number_or_nan(event.metrics.get("reward_mean")))
        self.lengths.append(number_or_nan(event.metrics.get("completion_length_mean")))
        self.teaching.append(1 - number_or_nan(event.metrics.get("zero_std_fraction")))
        self.sample = sample_of(event.groups) or self.sample
        if actions := event.metrics.get("machine_actions"):
            self.machine = f"step {event.step}: {', '.join(actions)}"

    def did(self, kind: str, step: int) -> None:
        """Measure the work that just ended."""
        if self.time_left is not None:
            self.time_left.did(kind, step)

    def elapsed(self) -> float:
        """Seconds since this part of the run started."""
        return self.clock() - self.began if self.run else 0.0

    def left(self) -> float | None:
        """Seconds until the run ends; None before this part's first step."""
        return self.time_left.seconds(self.evaluated()) if self.time_left else None

    def coming(self) -> list[tuple[str, int, float | None]]:
        """The next evaluation and the next save, each with its step and the seconds until then, if known."""
        times = self.time_left
        if times is None or self.finished:
            return []
        steps = [(kind, times.next(kind)) for kind in (EVALUATION, SAVE)]
        found = [
            (kind, step, times.until(kind, self.evaluated())) for kind, step in steps if step is not None
        ]
        return sorted(found, key=lambda work: work[1])

    def evaluated(self) -> float:
        """The finished fraction of the current evaluation; 0 during other work."""
        stage = self.doing
        is_evaluation = isinstance(stage, RolloutProgress) and stage.phase == "evaluation"
        return stage.finished / max(1, stage.total) if stage and is_evaluation else 0.0


def number_or_nan(value: Any) -> float:
    """A log line's number, or NaN, which the charts skip."""
    return float(value) if isinstance(value, int | float) else float("nan")


def sample_of(groups: list[RolloutGroup]) -> ShownCompletion | None:
    """The first completion of the last group: an arbitrary choice, independent of its reward."""
    group = next((group for group in reversed(groups) if group.rollouts), None)
    if group is None:
        return None
    asked = [message["content"] for message in group.example.messages if message["role"] == "user"]
    rollout = group.rollouts[0]
    return ShownCompletion(
        prompt=asked[-1] if asked else "",
        completion=rollout.text,
        answer=group.example.answer,
        reward=rollout.score,
        rewards=dict(rollout.rewards),
        stop_reason=str(rollout.stop_reason),
    )
