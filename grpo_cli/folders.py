"""Atomic replacement of folders: `path` always is the whole old folder or the whole new one.

    put_back(path)                          # recover after a killed process
    with new_in_place_of(path) as new:      # .model.grpo-tmp-x3k9, a temporary folder next to `path`
        ...                                 # at the end both are swapped in one call, and the old one deleted

On file systems without a swap two renames are used. Between them the old folder is at `replaced(path)`, where
`put_back` finds it.
"""

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_cli.files import sync

TEMPORARY_MARK = ".grpo-tmp"
OLD = ".grpo-old"
# All temporary names of folders and files, those of earlier versions included.
TEMPORARY_NAME = re.compile(r"\..+\.grpo-(tmp(-\w+(-old)?)?|old)|\.grpo-tmp-[0-9a-f]{16}(\.\w+)?")
AT_FDCWD = -100  # Linux: names are relative to the current folder
SWAP = 2  # RENAME_EXCHANGE of Linux's renameat2, RENAME_SWAP of macOS' renamex_np
CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


def new_folder(path: Path) -> Path:
    """Create an empty temporary folder next to `path`, and its parents, with default permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}{TEMPORARY_MARK}-", dir=path.parent))
    mask = os.umask(0)
    os.umask(mask)
    made.chmod(0o777 & ~mask)
    return made


def take_place(new: Path, path: Path, replace: bool = True) -> None:
    """Rename `new` to `path`, and delete the folder or link that was there.

    Raises OSError if the disk refuses it, if `path` is a file, or without `replace` if it is a non-empty
    folder. The old folder then stays at `path`.
    """
    put_back(path)
    if path.is_file() and not path.is_symlink():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    if not replace or not os.path.lexists(path):
        new.rename(path)  # fails unless `path` is free or an empty folder
        sync(path.parent)
        return
    if _swapped(new, path):
        old = new
    else:
        old = replaced(path)
        try:
            path.rename(old)
            new.rename(path)
        except BaseException:
            put_back(path)
            raise
    sync(path.parent)
    remove(old)


@contextmanager
def new_in_place_of(path: Path) -> Iterator[Path]:
    """A temporary folder that replaces `path` when the block ends, and is deleted if the block fails."""
    new = new_folder(path)
    try:
        yield new
        take_place(new, path)
    finally:
        remove(new)  # after a swap this is the old folder


def replaced(path: Path) -> Path:
    """The path of the old folder between the two renames."""
    return path.with_name(f".{path.name}{OLD}")


def put_back(path: Path) -> None:
    """Finish a replacement after a killed process: restore the old folder if there is no new one."""
    for old in (replaced(path), *_old_of_conversions(path)):
        if not os.path.lexists(old):
            continue
        if os.path.lexists(path):
            remove(old)
        else:
            old.rename(path)


def _old_of_conversions(path: Path) -> list[Path]:
    """Old folders left by conversions of version 1.0 or earlier, which used another name."""
    return [folder for folder in leftovers(path) if folder.name.endswith("-old")]


def leftovers(path: Path) -> list[Path]:
    """The existing folders made by `new_folder(path)`."""
    start = f".{path.name}{TEMPORARY_MARK}-"
    return sorted(child for child in children(path.parent) if child.name.startswith(start))


def children(folder: Path) -> Iterator[Path]:
    """The entries of a folder; empty if it does not exist."""
    return folder.iterdir() if folder.is_dir() else iter(())


def remove(path: Path) -> None:
    """Delete a folder, a file or a link (not its target). Contents that cannot be deleted stay."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _swapped(one: Path, other: Path) -> bool:
    """Swap two names in one call; False if the system or the disk does not support it. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        failed = library.renamex_np(*names, ctypes.c_uint(SWAP))
    elif hasattr(library, "renameat2"):
        failed = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], ctypes.c_uint(SWAP))
    else:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))
