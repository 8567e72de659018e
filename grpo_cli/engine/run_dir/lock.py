"""Lock of a run's folder, so that only one process uses it at a time.

    with RunLock(folder) as lock:      # CheckpointError if another process trains there
        lock.follow()                  # the folder's path now: it may have been moved

The lock is the operating system's (flock), which is released when the process ends in any way, so the file
that a killed run leaves does not block. `run.lock` contains the process id for the user.
"""

import contextlib
import fcntl
import os
from io import FileIO
from pathlib import Path

from grpo_cli.errors import CheckpointError
from grpo_cli.files import NOT_OURS, from_here, is_named, name_of, open_log
from grpo_cli.foreign_text import quoted

LOCK_FILE = "run.lock"


class RunLock:
    """Locks a run's folder, which must exist, for the duration of the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # a reward may change the current folder
        self.was_killed = False  # the last process that held the lock could not release it
        self._file: FileIO | None = None
        self._directory: int | None = None  # descriptor of the folder, which outlives its name

    @property
    def path(self) -> Path:
        """Path of the lock file."""
        return self.folder / LOCK_FILE

    def __enter__(self) -> "RunLock":
        try:
            self._directory = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            while self._file is None or not self._is_current(self._file):
                self._file = self._locked()
            self.was_killed = bool(os.pread(self._file.fileno(), 1, 0))
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n".encode())
        except OSError as error:
            self._close()
            raise refused_by_the_disk(error, self.path) from error
        except CheckpointError:
            self._close()
            raise
        return self

    def follow(self) -> Path | None:
        """Path of the locked folder, by its new name if it was moved; None if it was deleted.

        Raises OSError if the folder may not be looked at.
        """
        if self._directory is None:  # not locked: of another rank
            return self.folder
        for path in (self.folder, name_of(self._directory)):
            if path is not None and is_named(self._directory, path):
                self.folder = path
                return path
        return None

    def make_again(self) -> None:
        """Create the folder again after it was deleted, and lock it.

        Raises CheckpointError if another folder has its name by now.
        """
        if os.path.lexists(self.folder):
            shown = from_here(self.folder)
            raise CheckpointError(
                f"The run's folder {shown} was deleted or moved, and another one has its name",
                f"move that one away: `mv {quoted(shown)} {quoted(f'{shown}.aside')}`",
                trouble="cannot-save",
            )
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise refused_by_the_disk(error, self.folder) from error
        new = RunLock(self.folder).__enter__()
        self._close()
        self._file, self._directory = new._file, new._directory

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
                self.follow()
                if self._is_current(self._file):  # else it belongs to another process by now
                    self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._directory is not None:
            os.close(self._directory)
        self._file = self._directory = None

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
