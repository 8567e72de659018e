"""A folder that appears complete or not at all.

with staged(Path("models/nanochat-d32-mlx"), force=False) as folder:
    ...                        # write into folder, which has another name until the block ends well
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_cli.convert.errors import ConversionError

MODEL_FILES = ("config.json", "model_*.pt")  # a folder with one of these may be replaced


@contextmanager
def staged(output: Path, force: bool) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name when the block ends, and is gone if it fails.

    With `force` a model that is there is replaced at the end, not before. Raises ConversionError where
    something is there already (check_output) and where the disk refuses the folder.
    """
    check_output(output, force)
    temporary = output.with_name(f".{output.name}.grpo-tmp-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _replace(temporary, output)
    except OSError as error:  # of the folder itself; whoever writes into it has words of their own
        raise ConversionError(
            f"cannot write {output}: {error.strerror or error}", "choose another folder with `--output`"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(output: Path, force: bool) -> None:
    """Raise ConversionError if `output` may not be written: it is there, or is no model to be replaced."""
    if not output.exists():
        return
    if not output.is_dir():
        raise ConversionError(f"{output} is a file", "name a folder with `--output`")
    names = list(output.iterdir())
    is_model = any(path.match(pattern) for path in names for pattern in MODEL_FILES)
    if names and not force:
        raise ConversionError(
            f"{output} exists already", "replace it with `--force`, or choose another folder with `--output`"
        )
    if names and not is_model:
        raise ConversionError(
            f"{output} holds something other than a model, which `--force` does not delete",
            "choose another folder with `--output`",
        )


def existing_parent(path: Path) -> Path:
    """The nearest folder above a path that exists."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())


def _replace(new: Path, output: Path) -> None:
    """Give `new` the name `output`; what was there stays until then and goes after."""
    old = new.with_name(f"{new.name}-old")
    if output.exists():
        output.rename(old)
    new.rename(output)
    shutil.rmtree(old, ignore_errors=True)
