"""A tracker: what a run is reported to, such as wandb or tensorboard's event files.

    tracker = open_tracker(Opening(name="prod", folder=folder, config={"seed": 0}))
    tracker.log({"train/reward": 0.5}, step=1)
    tracker.finish(State.FINISHED, {"verdict": "accuracy 39.0 → 100.0 %"})

All calls come from one thread of the tracker's own. They may block and raise: worker.py deals with both.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

PROJECT = "grpo-cli"  # the group of runs, where the tracker's own environment variable names none


class State(StrEnum):
    """The way in which a run ended."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a tracker is opened with."""

    name: str  # of the run
    folder: Path  # the tracker's files, if it has any
    config: dict[str, Any]
    run_id: str = ""  # of the tracker's run that goes on; empty: a new one
    new_id: str = ""  # an id that no run has yet, for trackers that give none themselves
    tell: Callable[[str], None] = print  # a message for the user, in one sentence


@dataclass(frozen=True)
class Table:
    """A step's completions: one row each."""

    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list)  # texts, numbers and None


class Tracker(Protocol):
    """One run at one tracker."""

    run_id: str  # the run goes on under it when it is resumed

    def log(self, values: dict[str, float], step: int) -> None:
        """Report the finite numbers of a step or an evaluation, by their names there."""
        ...

    def log_table(self, table: Table, step: int) -> None:
        """Report a step's completions."""
        ...

    def finish(self, state: State, summary: dict[str, float | str]) -> None:
        """Report how the run ended, with its last results, and wait until all of it has arrived."""
        ...


OpenTracker = Callable[[Opening], Tracker]
