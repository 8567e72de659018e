"""Rescue of a run that ends by an error or a signal: save its state after the last update.

    rescue.keep(snapshot)               # after every update, before it is logged
    rescue.log(log.step, line, …)       # if this fails, `save` tries it once more
    notes = rescue.save(log, saver, error)   # when the run ends; the notes are added to the exception

`save` does not raise, so that the run ends with the original error.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from grpo_cli.engine.events import in_one_line
from grpo_cli.engine.guards.nonfinite import first_broken
from grpo_cli.engine.run_dir.checkpoint import Snapshot
from grpo_cli.engine.run_dir.log import RunLog
from grpo_cli.engine.run_dir.saver import Saver
from grpo_cli.errors import GrpoError, TrainingError
from grpo_cli.models.tree import flat


class Rescue:
    """The latest good snapshot of a run, and the log lines that could not be written yet."""

    def __init__(self) -> None:
        self.good: Snapshot | None = None
        self._unlogged: Callable[[], None] | None = None

    def keep(self, snapshot: Snapshot) -> None:
        """Set the snapshot that `save` would save."""
        self.good = snapshot

    def log(self, write: Callable[..., None], *lines: Any) -> None:
        """Write a step's log lines. If that raises, `save` tries it once more before it saves the step."""
        self._unlogged = partial(write, *lines)
        self._unlogged()
        self._unlogged = None

    def save(self, log: RunLog, saver: Saver, error: BaseException) -> list[str]:
        """Save the snapshot, unless it is saved already or the weights belong to an unfinished update.

        Returns the last lines for the user: what was not saved and why, what was saved, and how to resume.
        """
        if not saver.writes:
            return []
        lines = self._save(log, saver)
        name = f"checkpoint-{saver.saved_step}"
        if (saver.folder / name).is_dir():
            lines.append(f"Step {saver.saved_step} is saved in {saver.shown / name}.")
        if saver.saved_step > 0 and saver.resume_command not in getattr(error, "hint", ""):
            lines.append(f"Resume with: `{saver.resume_command}`")  # the hint's command may also set a key
        return lines

    def _save(self, log: RunLog, saver: Saver) -> list[str]:
        good = self.good
        if good is None or good.state.step <= max(saver.saved_step, 0):
            return []
        step = good.state.step
        try:
            if not good.is_current:
                return [f"Step {step} is NOT saved: the update after it is incomplete."]
            if first_broken(flat(good.policy.model.parameters())):
                return []  # the error names the broken weight
            if self._unlogged is not None:
                self._unlogged()
                good.state.log_positions = log.positions()
            saver.rescue(good)
        except BaseException as error:  # reported with the error that ends the run, which must stay the one
            why = error.message if isinstance(error, GrpoError) else in_one_line(error)
            return [f"Step {step} is NOT saved: {why}"]
        return []


def exited(error: SystemExit) -> TrainingError:
    """The error for a SystemExit raised by user code during a run, which must not look like a normal end."""
    return TrainingError(
        f"The run was ended by {in_one_line(error)}",
        "code that a run calls must not end the program",
    )
