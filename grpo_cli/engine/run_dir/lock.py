"""Lock of a run's folder, so that only one process uses it at a time.

    with RunLock(folder):      # CheckpointError if another process trains there
        ...

The lock is the operating system's (flock), which is released when the process ends in any way, so the file
that a killed run leaves does not block. `run.lock` contains the process id for the user.
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
    """Locks a run's folder, which must exist, for the duration of the block."""

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
        """Open and lock the lock file. Raises CheckpointError if another process has locked it."""
        file = open_log(self.path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(file.fileno(), 20, 0).decode(errors="replace").strip()
            raise self._taken(owner) from None
        return file

    def _is_current(self, file: FileIO) -> bool:
        """True if the opened file still has its name. Its last owner may delete it after it was opened."""
        return os.path.lexists(self.path) and os.path.samestat(os.fstat(file.fileno()), self.path.lstat())

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            # A failure here (a disk gone read-only) must not hide the error that ends the run.
            with contextlib.suppress(OSError):
                if self._is_current(self._file):  # else it belongs to another process by now
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
    """The CheckpointError for an OSError in a run's folder."""
    if error.errno in NOT_OURS:
        path = Path(error.filename) if error.filename else path
        return CheckpointError(
            f"Unusable file in the run's folder: {path}: {error.strerror}",
            f"it was not made by grpo: check it, and remove it with `rm -r {quoted(path)}`",
            trouble="cannot-save",
        )
    return CheckpointError(
        f"Failed to save checkpoint: {error.strerror}: {path}",
        "make the folder writable, or set `output_dir` to one that is",
        trouble="cannot-save",
    )
