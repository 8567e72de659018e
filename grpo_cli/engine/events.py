"""What the engine tells whoever listens: plain data, no terminal, no files.

The engine calls `listener(event)` and goes on; the command line renders the events. Light: this
module imports no mlx.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_cli.engine.guards.nothing_learned import NothingLearnt
from grpo_cli.types import RolloutGroup


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """Everything is loaded; the first step or evaluation comes next."""

    run_dir: Path
    total_steps: int
    model: str
    parameters: int
    trainable_parameters: int
    device: str
    train_examples: int
    skipped_prompts: int  # longer than max_prompt_length
    resumed_at: int = 0  # the step that this part of the run begins after
    evaluations: tuple[dict[str, Any], ...] = ()  # lines of those that were made before
    logging_steps: int = 1
    eval_steps: int = 0  # 0: never, also where there is nothing to evaluate on
    save_steps: int = 0


@dataclass(frozen=True)
class Loading:
    """How far something that takes over a second is, before the run starts: told once a second."""

    text: str  # "encoding prompts: 12,000 of 100,000"


@dataclass(frozen=True)
class RolloutProgress:
    """Between two tokens of a batch of completions, in training or in evaluation."""

    phase: str  # "rollout" | "evaluation"
    finished: int  # completions that have ended
    total: int
    tokens: int  # sampled so far


@dataclass(frozen=True)
class UpdateProgress:
    """Between two forwards and backwards of one update."""

    finished: int  # microbatches done
    total: int


@dataclass(frozen=True)
class StepFinished:
    """One optimizer update is done; `metrics` is the line the log gets (CONTRACT's keys)."""

    step: int
    metrics: dict[str, Any]
    groups: list[RolloutGroup]


@dataclass(frozen=True)
class EvaluationDone:
    """The evaluation's line: step, eval_accuracy, eval_format, eval_length_mean, …"""

    step: int
    metrics: dict[str, Any]


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint folder is complete on disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class Notice:
    """Something a person should know, which does not stop the run."""

    text: str


@dataclass(frozen=True, kw_only=True)
class RunFinished:
    """The run is over; `first` and `last` are the evaluations before and after, if any were made."""

    run_dir: Path
    final: Path
    steps: int  # in all
    seconds: float  # since RunStarted
    first: dict[str, Any] | None
    last: dict[str, Any] | None
    adapters_on: str | None = None  # with LoRA, the base model that the adapters in `final` belong to
    own_code: bool = False  # plain mlx-lm needs the source file in the model's folder to run it
    nothing_learnt: NothingLearnt | None = None  # why, where no step of the run taught anything


Event = (
    RunStarted
    | Loading
    | RolloutProgress
    | UpdateProgress
    | StepFinished
    | EvaluationDone
    | CheckpointSaved
    | Notice
    | RunFinished
)
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """A listener for those who do not listen."""


class Listeners:
    """Passes every event to each listener; one that fails is dropped with one notice, and the run goes on."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = list(listeners)

    def __call__(self, event: Event) -> None:
        for listener in list(self.listeners):
            error = failure(listener, event)
            if error is not None:
                self.listeners.remove(listener)
                notice = Notice(f"what shows the run failed and is switched off: {in_one_line(error)}")
                failure(listener, notice)  # often enough it can still say so itself
                self(notice)


def failure(listener: Listener, event: Event) -> BaseException | None:
    """What a listener raised, SystemExit of a broken pipe included; KeyboardInterrupt is a person's."""
    try:
        listener(event)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return error
    return None


def in_one_line(error: BaseException) -> str:
    """`TypeError: … (live.py, line 12)`: an exception and the place it came from."""
    place = "".join(
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)[-1:]
    )
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return lines[0].removeprefix(f"{type(error).__module__}.") + place
