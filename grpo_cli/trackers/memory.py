"""A run's memory of each tracker, so that a resumed run goes on there and sends no step twice.

memory = Memory.read(run_dir / "trackers/wandb.json")
memory.take("step", 40)  # False: the step was sent before the run was interrupted
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from grpo_cli.files import write_file
from grpo_cli.untrusted_json import DamagedFile, Schema, read_as

LONGEST_FILE = 1 << 16  # bytes
ID = r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$"  # it becomes the name of a folder
Step = Annotated[int, Field(ge=-1, lt=1 << 53)]


class _Saved(Schema):
    run_id: Annotated[str, Field(max_length=200, pattern=ID)]
    settings: str
    step: Step
    evaluation: Step
    table: Step


@dataclass
class Memory:
    """A tracker's run: its id, and the last step of each kind that was sent to it; −1: none yet."""

    run_id: str = ""
    settings: str = ""  # fingerprint of the configuration that the steps were made with
    step: int = -1
    evaluation: int = -1
    table: int = -1

    @staticmethod
    def read(path: Path) -> "Memory":
        """The saved memory; an empty one if there is none, or if it is damaged."""
        try:
            return Memory(**read_as(_Saved, path, LONGEST_FILE).model_dump())
        except (OSError, DamagedFile):
            return Memory()

    @property
    def last(self) -> int:
        """The last step of any kind that was sent."""
        return max(self.step, self.evaluation, self.table)

    def of_resumed(self, step: int, settings: str) -> "Memory":
        """The memory of a run that goes on after `step`, with the given settings.

        A run that goes back and differs from now on is a new one at the tracker: what was sent for the steps
        that it makes again is not true of it.
        """
        if step == 0 or (self.last > step and self.settings != settings):
            return Memory(settings=settings)
        return Memory(**{**asdict(self), "settings": settings})

    def take(self, kind: str, step: int) -> bool:
        """Note that a step is sent; False if it was before. `kind`: step, evaluation or table."""
        if step <= getattr(self, kind):
            return False
        setattr(self, kind, step)
        return True

    def write(self, path: Path) -> None:
        """Save it. A failure only means that steps may be sent twice after a resume."""
        with contextlib.suppress(OSError):
            write_file(path, json.dumps(asdict(self)))
