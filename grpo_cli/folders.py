"""Folders that are replaced whole: under their name is the old one or the new one, at every moment.

    put_back(path)                          # what a killed process left: the only copy gets its name back
    with new_in_place_of(path) as new:      # .model.grpo-tmp-x3k9, a name of its own beside its place
        ...                                 # at the end swapped in one call; then the old one is deleted

A file system that cannot swap has two renames instead, and the old folder stands under `replaced(path)`
between them: `put_back` finds it there.
"""

import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_cli.files import sync

TEMPORARY = ".grpo-tmp"
OLD = ".grpo-old"
AT_FDCWD = -100  # Linux: names are meant from the current folder
SWAP = 2  # RENAME_EXCHANGE of Linux's renameat2, RENAME_SWAP of macOS' renamex_np
CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


def new_folder(path: Path) -> Path:
    """A new empty folder beside `path`, made with its parents and with a new folder's permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}{TEMPORARY}-", dir=path.parent))
    mask = os.umask(0)
    os.umask(mask)
    made.chmod(0o777 & ~mask)
    return made


def take_place(new: Path, path: Path, replace: bool = True) -> None:
    """Give `new` the name `path`, and delete the folder or the link that had it.

    Raises OSError where the disk refuses it, a file is in the way, or a folder with something in it that is
    not to be replaced; then the old one has it.
    """
    put_back(path)
    if path.is_file() and not path.is_symlink():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    if not replace or not os.path.lexists(path):
        new.rename(path)  # onto nothing, or an empty folder
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
    """A new folder that takes the name `path` when the block ends, and is gone if it fails."""
    new = new_folder(path)
    try:
        yield new
        take_place(new, path)
    finally:
        remove(new)  # else what is left of the old one


def replaced(path: Path) -> Path:
    """Where the old folder stands between two renames."""
    return path.with_name(f".{path.name}{OLD}")


def put_back(path: Path) -> None:
    """Finish what a killed process began: the old folder gets its name back where no new one has it."""
    for old in (replaced(path), *_old_of_conversions(path)):
        if not os.path.lexists(old):
            continue
        if os.path.lexists(path):
            remove(old)
        else:
            old.rename(path)


def _old_of_conversions(path: Path) -> list[Path]:
    """The old folder of a conversion by version 1.0 or earlier, which had another name."""
    return [folder for folder in leftovers(path) if folder.name.endswith("-old")]


def leftovers(path: Path) -> list[Path]:
    """The folders of `new_folder(path)` that are there."""
    start = f".{path.name}{TEMPORARY}-"
    return sorted(child for child in children(path.parent) if child.name.startswith(start))


def children(folder: Path) -> Iterator[Path]:
    """What lies in a folder; nothing where there is none."""
    return folder.iterdir() if folder.is_dir() else iter(())


def remove(path: Path) -> None:
    """Delete a folder or a file; of a link the link alone. What cannot be deleted stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _swapped(one: Path, other: Path) -> bool:
    """Swap two names in one call; False where the system or the disk cannot. Raises OSError."""
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
