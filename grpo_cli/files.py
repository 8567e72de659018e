"""User paths and atomic file writes.

    path = chosen_path("~/runs")                # /home/ada/runs: absolute
    write_file(path / "config.toml", text)      # atomic: always the whole old or the whole new content
    with written(path / "x.safetensors") as name:
        mx.save_safetensors(str(name), arrays)  # renamed to x.safetensors if the block succeeds

A file is written under a temporary name in the same folder, flushed to the disk and renamed. An existing link
is replaced, never followed, so a link in a received folder cannot lead a write out of it.
"""

import errno
import fcntl
import glob
import io
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_cli.errors import ConfigError

LONGEST_NAME, LONGEST_PATH = 255, 1023  # bytes, the limits of macOS
SHOWN = 60  # characters of an invalid path in its message
TEMPORARY_PREFIX = ".grpo-tmp-"  # prefix of temporary names
NOT_OURS = (errno.ELOOP, errno.EINVAL, errno.EISDIR)  # a link, a pipe or a folder instead of a file
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


# --- paths --------------------------------------------------------------------------------------------


def chosen_path(text: str | Path) -> Path:
    """The absolute path of a user's text, with `~`, `~user` and `$NAME` expanded as in a shell.

    Raises ConfigError for an unknown user or variable, unless a file has exactly that name, and for an
    impossible path.
    """
    written = str(text)
    expanded = _VARIABLE.sub(_value_of, os.path.expanduser(written))  # noqa: PTH111 (no error for ~nobody)
    unknown = _VARIABLE.search(expanded) or re.match(r"~[^/]*", expanded)
    if unknown and not os.path.lexists(written):
        raise ConfigError(
            f"Path not understood: {written}: {unknown.group()} has no value",
            f"write the path out; for a name that begins with ~ write `./{written}`"
            if unknown.group().startswith("~")
            else f"write the path out, or `export {''.join(filter(None, unknown.groups()))}=…` first",
            trouble="paths",
        )
    _refuse_impossible(expanded)
    path = Path.cwd() / expanded
    return path.resolve() if ".." in path.parts else path


def expanded_name(name: str) -> str:
    """Expand a name that begins with `~` or contains a variable; other names, also hub names, stay as is."""
    _refuse_impossible(name)
    return str(chosen_path(name)) if name.startswith("~") or "$" in name else name


def _refuse_impossible(path: str) -> None:
    """Raise ConfigError for a path that no file system call accepts: too long, a NUL, half a character."""
    reason = ""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        reason = "it has half a character"
    else:
        if len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME:
            reason = "it is too long"
        if b"\0" in encoded:
            reason = "it has a NUL"
    if not reason:
        return
    shown = path if len(path) <= SHOWN else f"{path[:SHOWN]}…"
    raise ConfigError(
        f"Path not understood: {shown!r}: {reason}",
        f"write a path whose names have at most {LONGEST_NAME} bytes",
        trouble="paths",
    )


def _value_of(found: re.Match[str]) -> str:
    return os.environ.get(found[1] or found[2]) or found[0]


def from_here(path: Path) -> Path:
    """The path relative to the current folder if it is within it, for shorter messages."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextmanager
def without_pattern(folder: Path) -> Iterator[Path]:
    """The folder by a name without `[`, `*` and `?`, for libraries that treat paths as patterns."""
    if glob.escape(str(folder)) == str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="grpo-") as place:
        link = Path(place) / "folder"
        link.symlink_to(folder.absolute())
        yield link


# --- atomic writes --------------------------------------------------------------------------------------


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically. Raises OSError if the disk refuses it."""
    with written(path) as name:
        name.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary file that is renamed to `path` when the block ends, and deleted if the block fails.

    The permissions of an existing file are kept. Raises OSError for a folder, a device or a pipe.
    """
    mode = _mode_of(path)
    fresh = path.with_name(
        f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{path.suffix}"
    )  # libraries check the suffix
    try:
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
        if mode is not None:
            fresh.chmod(mode)
        yield fresh
        sync(fresh)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _mode_of(path: Path) -> int | None:
    """The permissions of an existing file; None if there is none, or only a link."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        return None
    _refuse_irregular(path, mode)
    return stat.S_IMODE(mode)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_open(descriptor)
    finally:
        os.close(descriptor)


def sync_open(descriptor: int) -> None:
    """Flush an open file to the disk. Raises OSError."""
    os.fsync(descriptor)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's content to `path` atomically. Raises OSError."""
    with open_regular(source) as reading, written(path) as name, name.open("wb") as writing:
        shutil.copyfileobj(reading, writing)


# --- opening files ----------------------------------------------------------------------------


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading; links are followed. Raises OSError for a pipe or device, which could block."""
    return os.fdopen(_descriptor(path, os.O_RDONLY), "rb")


def open_log(path: Path) -> io.FileIO:
    """Open a file for appending, and create it if needed. A file with hard links is replaced by a copy first.

    Raises OSError for a symbolic link and for anything but a regular file.
    """
    file = io.FileIO(_descriptor(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW), "ab")
    if os.fstat(file.fileno()).st_nlink < 2:
        return file
    file.close()
    with open_regular(path) as shared:  # its other name, maybe a backup, must not change
        write_file(path, shared.read())
    return open_log(path)


def name_of(descriptor: int) -> Path | None:
    """The path of an open file or folder by its present name, even if it was moved; None if unknown."""
    try:
        if sys.platform == "darwin":
            return Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except (OSError, ValueError):
        return None


def is_named(descriptor: int, path: Path) -> bool:
    """True if the path leads to the open file or folder. Raises OSError if it may not be looked at."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _descriptor(path: Path, flags: int) -> int:
    if flags & os.O_NOFOLLOW and path.is_symlink():
        raise OSError(errno.ELOOP, "It is a link, which is not followed", str(path))
    # Non-blocking, since opening a pipe would wait for its other end.
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        _refuse_irregular(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_irregular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
