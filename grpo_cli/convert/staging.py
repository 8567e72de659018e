"""A folder that appears complete or not at all.

    output = check_output(Path("models/nanochat-d32-mlx"), force=False, sources=[…])
    with staged(output, force=False) as folder:
        ...                        # write into folder, which has a temporary name until the block succeeds

Ctrl-C, SIGTERM and a closed terminal end the block like an error: nothing is left.
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

# Files that a conversion writes. A folder with anything else is the user's, and `--force` leaves it alone.
WRITTEN = (
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken"),
    *("chat_template.*", "README.md", "nanochat_v2.py", "model_*.pt", "meta_*.json"),
)


def check_output(output: Path, force: bool, sources: Sequence[Path] = ()) -> Path:
    """The output folder with links resolved.

    Raises ConversionError if it cannot become a model folder: it exists, or contains other files or one of
    the `sources`.
    """
    output = from_here(chosen_path(output))
    if output.is_symlink() or not output.name:
        output = output.resolve()
    if any(source.exists() and holds(output, source) for source in sources):
        raise ConversionError(f"{output} contains the source", "choose another folder with `--output`")
    if output.exists():
        _check_replaceable(output, force)
    return output


def _check_replaceable(output: Path, force: bool) -> None:
    """Raise ConversionError if the existing output must stay."""
    if not output.is_dir():
        raise ConversionError(f"{output} is a file", "name a folder with `--output`")
    if os.path.ismount(output):
        raise ConversionError(
            f"{output} is the root of a disk",
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
    """True if the path is the folder or inside it; compares files on disk, not spellings."""
    return folder.exists() and any(
        parent.exists() and parent.samefile(folder) for parent in (path.resolve(), *path.resolve().parents)
    )


def check_space(output: Path, needed: int, hint: str) -> None:
    """Raise ConversionError if the disk lacks `needed` bytes."""
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
    """A temporary folder next to `output` that gets its name when the block ends, and is deleted if it fails.

    With `force` an existing model is replaced at the end, not before. Raises ConversionError if the disk
    refuses the folder, or if something else was created there meanwhile.
    """
    with ended_by_signals():
        temporary = _make_beside(output)
        try:
            with _in_use(temporary):
                yield temporary
                _replace(temporary, output, force)
        finally:
            remove(temporary)  # the new folder after a failure, else the remains of the old one


@contextmanager
def _in_use(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock within the block; yields False if another process has it. It ends with its
    process.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def _remove_leftovers(output: Path) -> None:
    """Delete leftovers of a killed conversion to the same output; restore the name of a model's only copy."""
    put_back(output)
    for path in leftovers(output):
        with _in_use(path) as free:
            if free:
                remove(path)


def _make_beside(output: Path) -> Path:
    """A new folder on the same disk, with default permissions."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(output)
        return new_folder(output)
    except OSError as error:
        raise _refused(output, error) from error


def _replace(new: Path, output: Path, force: bool) -> None:
    """Rename `new` to `output`."""
    check_output(output, force)  # again: hours may have passed
    try:
        take_place(new, output, replace=force)
    except OSError as error:
        raise _refused(output, error) from error


def _refused(output: Path, error: OSError) -> ConversionError:
    if error.errno == errno.ENOTEMPTY:
        return ConversionError(
            f"{output} was created by another program in the meantime", "choose another folder"
        )
    return ConversionError(
        f"cannot write {output}: {error.strerror or error}",
        "free some space, or choose another folder with `--output`",
        trouble="disk-space",
    )
