"""Events of a run, sent to its listener: plain data, independent of terminal and files.

The engine calls `listener(event)` and continues; the command line renders the events. This module imports no
mlx, so it loads fast.
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
    skipped_prompts: int  # prompts longer than max_prompt_length
    resumed_at: int = 0  # the last step before this part of the run; 0 = a new run
    evaluations: tuple[dict[str, Any], ...] = ()  # log lines of earlier evaluations
    logging_steps: int = 1
    eval_steps: int = 0  # 0 = never, also without evaluation prompts
    save_steps: int = 0
    report_every: int = 0  # 0 = the page is written at the end only


@dataclass(frozen=True)
class Loading:
    """Progress of a slow task before the run starts, sent once a second."""

    text: str  # "encoding prompts: 12,000 of 100,000"


@dataclass(frozen=True)
class RolloutProgress:
    """Progress of sampling, sent between two tokens of a batch: by the policy, or by a judge."""

    phase: str  # "rollout" | "evaluation" | "judging"
    finished: int  # completions that have ended
    total: int
    tokens: int  # tokens sampled so far


@dataclass(frozen=True)
class UpdateProgress:
    """Progress of an update, sent after each microbatch."""

    finished: int  # microbatches done
    total: int


@dataclass(frozen=True)
class StepFinished:
    """One step is done; `metrics` is its line in training_log.jsonl."""

    step: int
    metrics: dict[str, Any]
    groups: list[RolloutGroup]


@dataclass(frozen=True)
class EvaluationDone:
    """An evaluation is done; `metrics` is its log line: step, eval_accuracy, eval_format, …"""

    step: int
    metrics: dict[str, Any]


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint folder is complete on disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class Notice:
    """A message for the user that does not stop the run."""

    text: str


@dataclass(frozen=True, kw_only=True)
class RunFinished:
    """The run is complete; `first` and `last` are its first and last evaluations, if any."""

    run_dir: Path
    final: Path
    steps: int  # total steps of the run
    seconds: float  # since RunStarted
    first: dict[str, Any] | None
    last: dict[str, Any] | None
    adapters_on: str | None = None  # with LoRA, the base model that the adapters in `final` belong to
    own_code: bool = False  # plain mlx-lm needs the source file in the model's folder to run it
    nothing_learnt: NothingLearnt | None = None  # the reason, if no step had an advantage
    interruptions: tuple[str, ...] = ()  # a few lines on failures, crashes and the time lost


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
    """No-op listener."""


class Listeners:
    """Passes every event to each listener. One that raises is dropped with a notice; the run continues."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = list(listeners)

    def __call__(self, event: Event) -> None:
        for listener in list(self.listeners):
            error = failure(listener, event)
            if error is not None:
                self.listeners.remove(listener)
                notice = Notice(f"the progress display failed and is switched off: {in_one_line(error)}")
                failure(listener, notice)  # it often can still show this notice
                self(notice)


def failure(listener: Listener, event: Event) -> BaseException | None:
    """The exception raised by a listener, including SystemExit of a broken pipe; None if it succeeded.

    KeyboardInterrupt is raised, since it comes from the user.
    """
    try:
        listener(event)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a listener may be anyone's code; the caller reports the error
        return error
    return None


def in_one_line(error: BaseException) -> str:
    """An exception and its origin in one line: `TypeError: … (live.py, line 12)`."""
    place = "".join(
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)[-1:]
    )
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return lines[0].removeprefix(f"{type(error).__module__}.") + place
