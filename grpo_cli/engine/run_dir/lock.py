"""One process on a run's folder at a time.

    with RunLock(folder):      # CheckpointError where another process trains there
        ...

The lock is the operating system's (flock), which lets go of it when its process ends in whatever way: a
lock that a killed run leaves behind is taken over. The file `run.lock` holds the process id, for people.
"""

import contextlib
import fcntl
import os
from io import FileIO
from pathlib import Path

from grpo_cli.errors import CheckpointError
from grpo_cli.files import NOT_OURS, from_here, open_log
from grpo_cli.foreign_text import quoted

LOCK_FILE = "run.lock"


class RunLock:
    """Holds a run's folder, which must exist, while the block lasts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.absolute() / LOCK_FILE  # a reward may change the current folder
        self._file: FileIO | None = None

    def __enter__(self) -> "RunLock":
        try:
            while self._file is None or not self._is_current(self._file):
                self._file = self._locked()
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n".encode())
        except OSError as error:
            raise refused_by_the_disk(error, self.path) from error
        return self

    def _locked(self) -> FileIO:
        """The lock file, locked. Raises CheckpointError where another process has it."""
        file = open_log(self.path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(file.fileno(), 20, 0).decode(errors="replace").strip()
            raise self._taken(owner) from None
        return file

    def _is_current(self, file: FileIO) -> bool:
        """Whether the file still has its name: its last owner deletes it, perhaps after we opened it."""
        return os.path.lexists(self.path) and os.path.samestat(os.fstat(file.fileno()), self.path.lstat())

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            # A disk that is read-only by now must not hide why: a file that stays is taken over.
            with contextlib.suppress(OSError):
                if self._is_current(self._file):  # else it is another process's by now
                    self.path.unlink(missing_ok=True)
            self._file.close()

    def _taken(self, owner: str) -> CheckpointError:
        folder = from_here(self.path.parent)
        return CheckpointError(
            f"The run in {folder} is in use by the process {owner or 'that just started'}",
            f"wait until it ends, or stop it: `kill {owner or 'PID'}` saves its step first",
            trouble="run-in-use",
        )


def refused_by_the_disk(error: OSError, path: Path) -> CheckpointError:
    """The error for what a disk refused in a run's folder."""
    if error.errno in NOT_OURS:
        path = Path(error.filename) if error.filename else path
        return CheckpointError(
            f"Unusable file in the run's folder: {path}: {error.strerror}",
            f"no command of grpo made it: look at it, and remove it with `rm -r {quoted(path)}`",
            trouble="cannot-save",
        )
    return CheckpointError(
        f"Failed to save checkpoint: {error.strerror}: {path}",
        "make the folder writable, or set `output_dir` to one that is",
        trouble="cannot-save",
    )
