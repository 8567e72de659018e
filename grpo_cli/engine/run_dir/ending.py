"""ended.json in a run's folder: why the last part of the run ended before its last step.

    record_ending(lock, error)     # {"state": "failed", "reason": "Reward function raised: …"}
    read_ending(folder)              # Ending("failed", "Reward function raised: …")

A run that is resumed removes the file. A process that is killed leaves none.
"""

import contextlib
from pathlib import Path
from typing import Literal

from grpo_cli.engine.run_dir.lock import RunLock
from grpo_cli.errors import GrpoError
from grpo_cli.files import write_file
from grpo_cli.foreign_text import safe_json, well_formed
from grpo_cli.untrusted_json import DamagedFile, Schema, read_as

ENDED_FILE = "ended.json"
LONGEST_REASON = 300  # characters
LARGEST = 1 << 16  # bytes


class Ending(Schema):
    """The early end of a run: interrupted by a signal, or failed with an error."""

    state: Literal["interrupted", "failed"]
    reason: str = ""


def record_ending(lock: RunLock, error: BaseException) -> None:
    """Write the file into the locked folder, wherever it is now.

    A disk that refuses it must not hide the error that ends the run.
    """
    words = error.message if isinstance(error, GrpoError) else f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt):
        ending = {"state": "interrupted", "reason": str(error)}
    else:
        ending = {"state": "failed", "reason": words}
    first_line = next(iter(ending["reason"].splitlines()), "")
    ending["reason"] = well_formed(first_line[:LONGEST_REASON])
    with contextlib.suppress(OSError):
        folder = lock.follow()
        if folder is not None:  # else it was deleted, and its name may belong to another run
            write_file(folder / ENDED_FILE, f"{safe_json(ending)}\n")


def forget_ending(folder: Path) -> None:
    """Remove the file, since the run continues."""
    with contextlib.suppress(OSError):
        (folder / ENDED_FILE).unlink(missing_ok=True)


def read_ending(folder: Path) -> Ending | None:
    """The recorded ending; None if there is none or the file is damaged."""
    try:
        return read_as(Ending, folder / ENDED_FILE, LARGEST)
    except (OSError, DamagedFile):
        return None
