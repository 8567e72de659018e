"""A run's folder, `<output_dir>/<run_name>/`: created once, never used by two runs."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from grpo_cli.config.render import dump_config
from grpo_cli.config.schema import Config
from grpo_cli.engine.run_dir.answer_files import remove_answers
from grpo_cli.engine.run_dir.ending import ENDED_FILE
from grpo_cli.engine.run_dir.incidents import INCIDENTS
from grpo_cli.engine.run_dir.lock import LOCK_FILE, RunLock, refused_by_the_disk
from grpo_cli.engine.run_dir.log import COMPLETIONS, METRICS
from grpo_cli.engine.run_dir.machines import MACHINES
from grpo_cli.engine.run_dir.manifest import FINAL, MANIFEST, checkpoints, step_of
from grpo_cli.engine.run_dir.names import CONFIG_FILE, ROLLOUTS
from grpo_cli.errors import CheckpointError
from grpo_cli.files import from_here, write_file
from grpo_cli.folders import OLD, TEMPORARY_MARK, put_back, remove
from grpo_cli.foreign_text import quoted

LISTENED = ("trackers", ROLLOUTS)  # folders of what a run keeps beside its checkpoints


def refuse_existing_run(folder: Path) -> None:
    """Raise CheckpointError if the folder already contains a run, so that no run is ever overwritten."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise CheckpointError(
            f"Failed to save checkpoint: Not a directory: {from_here(there)}",
            f"choose another `{'run_name' if there == folder else 'output_dir'}`",
            trouble="cannot-save",
        )
    if there != folder:
        return
    marks = [folder / CONFIG_FILE, folder / METRICS, *checkpoints(folder)]
    if any(os.path.lexists(mark) for mark in marks):
        raise CheckpointError(
            f"The folder {folder} already holds a run",
            f"`grpo resume {quoted(folder)}` resumes it; `--set run_name=NAME` starts another run",
            trouble="run-exists",
        )


def locate(path: Path) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint if `path` is one. Raises CheckpointError if it is neither."""
    if path.name in ("", ".", ".."):
        path = path.resolve()
    if path.is_dir():
        is_checkpoint = (path / MANIFEST).exists() or step_of(path) is not None or path.name == FINAL
        if is_checkpoint:
            return path.absolute().parent, path.absolute()
        if (path / CONFIG_FILE).exists() or checkpoints(path):
            return path, None
    raise CheckpointError(f"Checkpoint not found: {path}", existing(path), trouble="checkpoint-not-found")


def existing(path: Path) -> str:
    """The hint for a path that is not a checkpoint: the checkpoints near it."""
    parent = path if path.is_dir() else path.parent
    found = [str(folder) for run in (parent, *sorted(parent.glob("*/"))) for folder in checkpoints(run)]
    if found:
        return f"there are {', '.join(found[:8])}" + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return f"{parent} holds none; a run's folder is `<output_dir>/<run_name>`"


@contextlib.contextmanager
def new_run_folder(config: Config) -> Iterator[RunLock]:
    """Create the run's folder with the resolved configuration in it, and lock it during the block.

    Raises CheckpointError if the folder cannot be written or another process uses it.
    """
    folder = config.run_dir
    with words_for_the_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder) as lock:
        refuse_existing_run(folder)  # again: another process may have created a run before the lock
        with words_for_the_disk(folder):
            write_config(folder, config)
        yield lock


@contextlib.contextmanager
def words_for_the_disk(folder: Path) -> Iterator[None]:
    """Turn an OSError within the block into a CheckpointError."""
    try:
        yield
    except OSError as error:
        raise refused_by_the_disk(error, folder) from error


def write_config(folder: Path, config: Config) -> None:
    """Write the resolved configuration atomically."""
    write_file(folder / CONFIG_FILE, dump_config(config))


def tidy(folder: Path) -> None:
    """Remove partial checkpoints of a killed process, and finish or undo its interrupted renames."""
    for path in list(folder.iterdir()):
        if path.name.startswith(".") and path.name.endswith(OLD):
            put_back(folder / path.name.removeprefix(".").removesuffix(OLD))
        elif path.name.startswith(".") and TEMPORARY_MARK in path.name:
            remove(path)


def discard_empty_run(lock: RunLock) -> None:
    """Remove the files of a run that made no step; other files in the folder stay."""
    with contextlib.suppress(OSError):  # a failure here must not hide the error that ends the run
        folder = lock.follow()
        if folder is None:
            return
        for name in (CONFIG_FILE, METRICS, COMPLETIONS, INCIDENTS, MACHINES, ENDED_FILE, LOCK_FILE):
            (folder / name).unlink(missing_ok=True)
        remove_answers(folder)
        for name in LISTENED:
            remove(folder / name)
        if not any(folder.iterdir()):
            folder.rmdir()
