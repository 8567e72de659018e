"""Files left by killed `grpo` processes, recognised by their names, ages and their owners' locks.

    [each.path for each in found_in([Path("outputs/prod")])]    # [outputs/prod/.checkpoint-40.grpo-tmp]

A folder is written as `.NAME.grpo-tmp-XXXX`, and the one it replaces is `.NAME.grpo-old` for a moment. A file
is written as `.grpo-tmp-XXXX.ENDING`. A resumed run sets files aside as `NAME.aside`.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from grpo_cli.folders import TEMPORARY_NAME

ASIDE = re.compile(r"(checkpoint-\d+|final|training_log\.jsonl|completions\.jsonl)\.aside(-\d+)?")
REPLACED = re.compile(r"\.(.+)\.grpo-(?:old|tmp-\w+-old)")
FRESH_SECONDS = 3600
MEASURE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class StaleFile:
    """A temporary or set-aside file or folder that a `grpo` process wrote."""

    path: Path
    size: int  # bytes, at least
    is_abandoned: bool  # temporary, old, and in use by no process
    is_aside: bool
    original: Path | None  # its former name, if nothing has that name now: then it is the only copy

    def as_row(self) -> dict[str, str | int]:
        """Path and size, for `--json`."""
        return {"path": str(self.path), "bytes": self.size}


def found_in(folders: Iterable[Path]) -> Iterator[StaleFile]:
    """The stale files that lie directly in the folders."""
    for folder in folders:
        try:
            entries = sorted(folder.iterdir())
        except (OSError, ValueError):
            continue
        for path in entries:
            is_temporary, is_aside = (
                bool(TEMPORARY_NAME.fullmatch(path.name)),
                bool(ASIDE.fullmatch(path.name)),
            )
            if is_temporary or is_aside:
                abandoned = is_temporary and age(path) > FRESH_SECONDS and not in_use(path)
                yield StaleFile(
                    path=path,
                    size=measured(path)[0],
                    is_abandoned=abandoned,
                    is_aside=is_aside,
                    original=original_of(path),
                )


def original_of(path: Path) -> Path | None:
    """Former name of a folder whose replacement was interrupted; None if that name exists."""
    match = REPLACED.fullmatch(path.name)
    original = path.with_name(match[1]) if match else None
    return original if original and not os.path.lexists(original) else None


def age(path: Path) -> float:
    """Seconds since a file, or a folder's direct content, was last changed; 0 if unknown."""
    try:
        times = [path.stat(follow_symlinks=False).st_mtime]
        if path.is_dir() and not path.is_symlink():
            times += [child.stat(follow_symlinks=False).st_mtime for child in path.iterdir()]
    except OSError:
        return 0.0
    return time.time() - max(times)


def in_use(path: Path) -> bool:
    """True if a process holds the lock of the run or conversion that a file belongs to."""
    from grpo_cli.engine.run_dir.lock import LOCK_FILE

    return is_locked(path) or is_locked(path.parent / LOCK_FILE)


def is_locked(path: Path) -> bool:
    """True if another process holds a lock on a file or folder. Creates and changes nothing."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


def measured(path: Path, seconds: float = MEASURE_SECONDS) -> tuple[int, bool]:
    """Bytes of a file or of all files in a folder, and True if all were counted within `seconds`.

    Links are not followed, so the hub's cache counts each linked file once.
    """
    end, size, waiting = time.monotonic() + seconds, 0, [path]
    try:
        if not path.is_dir():
            return (path.stat(follow_symlinks=False).st_size if os.path.lexists(path) else 0), True
    except (OSError, ValueError):
        return 0, False
    complete = True
    while waiting:
        if time.monotonic() > end:
            return size, False
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif not entry.is_symlink():
                        size += entry.stat(follow_symlinks=False).st_size
        except OSError:  # no permission, or deleted in the meantime
            complete = False
    return size, complete
