"""Paths that people choose, and files that appear whole or not at all.

    path = chosen_path("~/runs")                # /home/ada/runs: absolute, never a pattern
    write_file(path / "config.toml", text)      # the old content or the new one, at every moment
    with written(path / "x.safetensors") as name:
        mx.save_safetensors(str(name), arrays)  # gets its own name when the block ends well

A file is written under a fresh name beside its place, flushed to the disk and renamed. A link that has the
name is replaced, never followed: what a received folder holds cannot lead a write out of it.
"""

import errno
import glob
import io
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_cli.errors import ConfigError

LONGEST_NAME, LONGEST_PATH = 255, 1023  # bytes, as macOS has them
SHOWN = 60  # characters of a path that is refused
TEMPORARY = ".grpo-tmp-"  # how the fresh names begin
NOT_OURS = (errno.ELOOP, errno.EINVAL, errno.EISDIR)  # a link, a pipe or a folder in a file's place
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


# --- paths --------------------------------------------------------------------------------------------


def chosen_path(text: str | Path) -> Path:
    """The absolute path that a person meant: `~`, `~user` and `$NAME` stand for what a shell has for them.

    Raises ConfigError for a user or a variable that is not known, unless a file has that very name, and for
    what can be no path at all.
    """
    written = str(text)
    expanded = _VARIABLE.sub(_value_of, os.path.expanduser(written))  # noqa: PTH111 (no error for ~nobody)
    unknown = _VARIABLE.search(expanded) or re.match(r"~[^/]*", expanded)
    if unknown and not os.path.lexists(written):
        raise ConfigError(
            f"Path not understood: {written}: {unknown.group()} has no value",
            f"write the path out; `./{written}` is a name that begins with ~"
            if unknown.group().startswith("~")
            else f"write the path out, or `export {''.join(filter(None, unknown.groups()))}=…` first",
            trouble="paths",
        )
    _refuse_impossible(expanded)
    path = Path.cwd() / expanded
    return path.resolve() if ".." in path.parts else path


def expanded_name(name: str) -> str:
    """A name that may be a path: with `~` or a variable it is one; any other stays as it is, a hub's too."""
    _refuse_impossible(name)
    return str(chosen_path(name)) if name.startswith("~") or "$" in name else name


def _refuse_impossible(path: str) -> None:
    """Raise ConfigError for what every question to the disk would fail for."""
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
    """A path as it is from the current folder, where it lies in it: shorter to read."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextmanager
def without_pattern(folder: Path) -> Iterator[Path]:
    """The folder under a name without `[`, `*` and `?`, for libraries that take a name for a pattern."""
    if glob.escape(str(folder)) == str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="grpo-") as place:
        link = Path(place) / "folder"
        link.symlink_to(folder.absolute())
        yield link


# --- whole files --------------------------------------------------------------------------------------


def write_file(path: Path, content: str | bytes) -> None:
    """Give a file this content, in one moment. Raises OSError where the disk refuses it."""
    with written(path) as name:
        name.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """An empty new file beside `path` that gets its name when the block ends, and is gone if it fails.

    A file that is there keeps its permissions. Raises OSError for a folder, a device or a pipe.
    """
    mode = _mode_of(path)
    fresh = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}")  # some libraries look at that
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
    """The permissions of the file that has the name; None: there is none, or a link."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        return None
    _refuse_irregular(path, mode)
    return stat.S_IMODE(mode)


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder: the one way to ask for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_open(descriptor)
    finally:
        os.close(descriptor)


def sync_open(descriptor: int) -> None:
    """The same for a file that is open. Raises OSError where the disk refuses it."""
    os.fsync(descriptor)


def copy_file(source: Path, path: Path) -> None:
    """Give a file the content of another one, in one moment. Raises OSError."""
    with open_regular(source) as reading, written(path) as name, name.open("wb") as writing:
        shutil.copyfileobj(reading, writing)


# --- files that are opened ----------------------------------------------------------------------------


def open_regular(path: Path) -> io.BufferedReader:
    """A file to read, its links followed. Raises OSError for a pipe or a device, which could wait forever."""
    return os.fdopen(_descriptor(path, os.O_RDONLY), "rb")


def open_log(path: Path) -> io.FileIO:
    """A file to append to, made where there is none, and the only name of its content.

    Raises OSError for a link and for what is not a regular file.
    """
    file = io.FileIO(_descriptor(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW), "ab")
    if os.fstat(file.fileno()).st_nlink < 2:
        return file
    file.close()
    with open_regular(path) as shared:  # another name, of a backup perhaps, would grow with it
        write_file(path, shared.read())
    return open_log(path)


def _descriptor(path: Path, flags: int) -> int:
    if flags & os.O_NOFOLLOW and path.is_symlink():
        raise OSError(errno.ELOOP, "It is a link, which is not followed", str(path))
    # Non-blocking: the open of a pipe waits for its other end otherwise.
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
