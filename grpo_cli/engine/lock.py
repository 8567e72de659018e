"""One process on a run's folder at a time.

    with RunLock(folder):      # CheckpointError where another process trains there
        ...

The lock is the operating system's (flock), which lets go of it when its process ends in whatever way: a
lock that a killed run leaves behind is taken over. The file `run.lock` holds the process id, for people.
"""

import fcntl
import os
from pathlib import Path
from typing import IO

from grpo_cli.errors import CheckpointError

LOCK_FILE = "run.lock"


class RunLock:
    """Holds a run's folder, which must exist, while the block lasts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        self._file: IO[str] | None = None

    def __enter__(self) -> "RunLock":
        try:
            while self._file is None or not self._is_current(self._file):
                self._file = self._locked()
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()
        except OSError as error:
            raise CheckpointError(
                f"Failed to save checkpoint: {error.strerror}: {self.path}",
                "make the folder writable, or set `output_dir` to one that is",
                trouble="cannot-save",
            ) from error
        return self

    def _locked(self) -> IO[str]:
        """The lock file, locked. Raises CheckpointError where another process has it."""
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise self._taken(file.read().strip()) from None
        return file

    def _is_current(self, file: IO[str]) -> bool:
        """Whether the file still has its name: its last owner deletes it, perhaps after we opened it."""
        return self.path.exists() and os.path.samestat(os.fstat(file.fileno()), self.path.stat())

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            if self._is_current(self._file):  # else it is another process's by now
                self.path.unlink(missing_ok=True)
            self._file.close()

    def _taken(self, owner: str) -> CheckpointError:
        return CheckpointError(
            f"The run in {self.path.parent} is in use by the process {owner or 'that just started'}",
            f"wait until it ends, or stop it: `kill {owner or 'PID'}` saves its step first",
            trouble="run-in-use",
        )
