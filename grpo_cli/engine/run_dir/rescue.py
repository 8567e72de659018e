"""What is saved of a run that ends by itself or by an error: its state after the last update that was made.

    rescue.keep(snapshot)               # after every update, before anything is told of it
    rescue.log(log.step, line, …)       # a line that fails is written before the state that has it is saved
    notes = rescue.save(log, saver, error)   # whatever ends the run; they are added to the exception

Nothing here raises, so that what went wrong first is what the run ends by.
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
    """The run after its last update, and what its log still lacks of that."""

    def __init__(self) -> None:
        self.good: Snapshot | None = None
        self._unlogged: Callable[[], None] | None = None

    def keep(self, snapshot: Snapshot) -> None:
        """This is what would be saved now."""
        self.good = snapshot

    def log(self, write: Callable[..., None], *lines: Any) -> None:
        """Write a step's lines; where that raises, it is tried once more before the step is saved."""
        self._unlogged = partial(write, *lines)
        self._unlogged()
        self._unlogged = None

    def save(self, log: RunLog, saver: Saver, error: BaseException) -> list[str]:
        """Save it, unless it is saved or its weights are not of its step.

        The lines that a person needs last: what is not saved and why, what is, and how to resume.
        """
        if not saver.writes:
            return []
        lines = self._save(log, saver)
        name = f"checkpoint-{saver.saved_step}"
        if (saver.folder / name).is_dir():
            lines.append(f"Step {saver.saved_step} is saved in {saver.shown / name}.")
        if saver.saved_step > 0 and saver.resume_command not in getattr(error, "hint", ""):
            lines.append(f"Resume with: `{saver.resume_command}`")  # the hint's may change a key
        return lines

    def _save(self, log: RunLog, saver: Saver) -> list[str]:
        good = self.good
        if good is None or good.state.step <= max(saver.saved_step, 0):
            return []
        step = good.state.step
        try:
            if not good.is_current:
                return [f"Step {step} is NOT saved: the update after it is not whole."]
            if first_broken(flat(good.policy.model.parameters())):
                return []  # the error says so
            if self._unlogged is not None:
                self._unlogged()
                good.state.log_positions = log.positions()
            saver.rescue(good)
        except BaseException as error:
            why = error.message if isinstance(error, GrpoError) else in_one_line(error)
            return [f"Step {step} is NOT saved: {why}"]
        return []


def exited(error: SystemExit) -> TrainingError:
    """The error for code that ends the program in the middle of a run, which must not look like its end."""
    return TrainingError(
        f"The run was ended by {in_one_line(error)}",
        "code that a run calls cannot end the program",
    )
