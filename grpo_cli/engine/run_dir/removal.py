"""Removal of a run's folder: of what grpo wrote in it, and of nothing else.

    contents(folder)        # ("checkpoint-40", "config.toml", …), ("notes.txt",)
    remove_run(folder)      # the names that stay, because grpo did not write them

No symbolic link is followed: a link in the folder is removed as a link, and a folder that is one is refused.
The run's lock is held meanwhile, so that no run is removed that another process uses.
"""

import os
import re
import shutil
import stat
from fnmatch import fnmatch
from pathlib import Path

from grpo_cli.engine.run_dir.ending import ENDED_FILE
from grpo_cli.engine.run_dir.incidents import INCIDENTS
from grpo_cli.engine.run_dir.lock import LOCK_FILE, RunLock
from grpo_cli.engine.run_dir.log import COMPLETIONS, METRICS
from grpo_cli.engine.run_dir.machines import MACHINES
from grpo_cli.engine.run_dir.manifest import FINAL, step_of
from grpo_cli.engine.run_dir.names import ANSWERS, CONFIG_FILE, ROLLOUTS
from grpo_cli.errors import CheckpointError
from grpo_cli.folders import TEMPORARY_NAME
from grpo_cli.foreign_text import quoted

FILES = {
    CONFIG_FILE, METRICS, COMPLETIONS, INCIDENTS, MACHINES, LOCK_FILE, ENDED_FILE, "report.html", FINAL,
    ROLLOUTS, "trackers",
}  # fmt: skip
ASIDE = re.compile(r"\.aside(-\d+)?$")


def is_ours(name: str) -> bool:
    """True for the name of a file or folder that grpo writes into a run's folder."""
    name = ASIDE.sub("", name)
    return (
        name in FILES
        or step_of(Path(name)) is not None
        or fnmatch(name, ANSWERS)
        or TEMPORARY_NAME.fullmatch(name) is not None
    )


def contents(folder: Path | int) -> tuple[list[str], list[str]]:
    """The names in a run's folder, or in one that is open: those that grpo wrote, and the others."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 (names are all that is needed)
    except FileNotFoundError:  # removed meanwhile
        return [], []
    return [name for name in names if is_ours(name)], [name for name in names if not is_ours(name)]


def remove_run(folder: Path) -> list[str]:
    """Remove a run's folder; returns the names that stay in it because grpo did not write them.

    Raises CheckpointError for a link, for a run that is in use, and if the disk refuses it.
    """
    if folder.is_symlink():
        raise CheckpointError(
            f"{folder} is a link to another folder, which is not removed",
            f"remove the link alone: `rm {quoted(folder)}`",
        )
    try:
        with RunLock(folder):
            _remove_ours(folder)
        others = contents(folder)[1]
        if not others:
            folder.rmdir()
    except OSError as error:
        raise CheckpointError(
            f"Cannot remove {error.filename or folder}: {error.strerror}",
            f"make the folder and what is in it writable: `chmod -R u+w {quoted(folder)}`",
        ) from error
    return others


def _remove_ours(folder: Path) -> None:
    """Remove what grpo wrote, the marks of a run last: what an interruption leaves is still a run."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in sorted(contents(descriptor)[0], key=lambda name: (name == CONFIG_FILE, name == METRICS)):
            if name != LOCK_FILE:  # the lock removes its own
                _remove(name, descriptor)
    finally:
        os.close(descriptor)


def _remove(name: str, parent: int) -> None:
    """Remove a file, a link or a whole folder within the open folder `parent`."""
    if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)
