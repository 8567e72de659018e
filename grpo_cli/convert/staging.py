"""A folder that appears complete or not at all.

    output = check_output(Path("models/nanochat-d32-mlx"), force=False, sources=[…])
    with staged(output, force=False) as folder:
        ...                        # write into folder, which has another name until the block ends well

Ctrl-C, SIGTERM and a closed terminal end the block as an error does: nothing is left of it.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from grpo_cli.convert.errors import ConversionError
from grpo_cli.ended import ended_by_signals
from grpo_cli.files import chosen_path, from_here
from grpo_cli.folders import leftovers, new_folder, put_back, remove, take_place
from grpo_cli.foreign_text import quoted

# What a conversion writes. A folder with anything else in it is somebody's, and `--force` leaves it alone.
WRITTEN = (
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken"),
    *("chat_template.*", "README.md", "nanochat_v2.py", "model_*.pt", "meta_*.json"),
)


def check_output(output: Path, force: bool, sources: Sequence[Path] = ()) -> Path:
    """The folder to write, its links followed.

    Raises ConversionError where it cannot become a model's folder: it is there already, or holds something
    else or one of the `sources`.
    """
    output = from_here(chosen_path(output))
    if output.is_symlink() or not output.name:
        output = output.resolve()
    if any(source.exists() and holds(output, source) for source in sources):
        raise ConversionError(f"{output} holds the source itself", "choose another folder with `--output`")
    if output.exists():
        _check_replaceable(output, force)
    return output


def _check_replaceable(output: Path, force: bool) -> None:
    """Raise ConversionError for what is there and must stay."""
    if not output.is_dir():
        raise ConversionError(f"{output} is a file", "name a folder with `--output`")
    if os.path.ismount(output):
        raise ConversionError(
            f"{output} is a disk's own folder",
            f"choose one in it: `--output {quoted(output)}/model`",
        )
    names = sorted(path.name for path in output.iterdir())
    if names and not force:
        raise ConversionError(
            f"{output} exists already", "replace it with `--force`, or choose another folder with `--output`"
        )
    strangers = [name for name in names if not any(Path(name).match(pattern) for pattern in WRITTEN)]
    steps = [name for name in names if Path(name).match("model_*.pt")]
    if strangers or len(steps) > 1:
        kept = strangers[0] if strangers else f"{len(steps)} steps of nanochat's"
        raise ConversionError(
            f"{output} holds something other than a model ({kept}), which `--force` does not delete",
            "choose another folder with `--output`",
        )


def holds(folder: Path, path: Path) -> bool:
    """Whether a path is the folder or in it; by what they are on the disk, not by how they are spelt."""
    return folder.exists() and any(
        parent.exists() and parent.samefile(folder) for parent in (path.resolve(), *path.resolve().parents)
    )


def check_space(output: Path, needed: int, hint: str) -> None:
    """Raise ConversionError where the disk cannot hold so many bytes."""
    parent = next(parent for parent in output.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ConversionError(
            f"the conversion needs {needed / 1e9:.1f} GB, "
            f"and {parent.resolve()} has {free / 1e9:.1f} GB free",
            hint,
            trouble="disk-space",
        )


@contextmanager
def staged(output: Path, force: bool) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name when the block ends, and is gone if it fails.

    With `force` a model that is there is replaced at the end, not before. Raises ConversionError where the
    disk refuses the folder, and where something came in its way meanwhile.
    """
    with ended_by_signals():
        temporary = _make_beside(output)
        try:
            with _in_use(temporary):
                yield temporary
                _replace(temporary, output, force)
        finally:
            remove(temporary)  # the new folder where it failed, else what is left of the old one


@contextmanager
def _in_use(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock within the block; False: another process has it. It ends with its process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def _remove_leftovers(output: Path) -> None:
    """Delete what a killed conversion to the same place left; the only copy of a model gets its name back."""
    put_back(output)
    for path in leftovers(output):
        with _in_use(path) as free:
            if free:
                remove(path)


def _make_beside(output: Path) -> Path:
    """A new folder on the same disk, with the permissions that a new folder gets."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(output)
        return new_folder(output)
    except OSError as error:
        raise _refused(output, error) from error


def _replace(new: Path, output: Path, force: bool) -> None:
    """Give `new` the name `output`."""
    check_output(output, force)  # again: hours may have passed
    try:
        take_place(new, output, replace=force)
    except OSError as error:
        raise _refused(output, error) from error


def _refused(output: Path, error: OSError) -> ConversionError:
    if error.errno == errno.ENOTEMPTY:
        return ConversionError(f"{output} was made by another program meanwhile", "choose another folder")
    return ConversionError(
        f"cannot write {output}: {error.strerror or error}",
        "free some space, or choose another folder with `--output`",
        trouble="disk-space",
    )
