"""What mlx-lm converts: models in transformers' format, and quantisation of any model folder.

mlx-lm's own conversion does the work; here its failures become words, and what it prints stays out of
the results.
"""

import contextlib
import errno
import io
import json
from collections.abc import Iterator
from pathlib import Path

from mlx_lm.convert import convert as mlx_lm_convert
from transformers.utils import logging

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import Options

# How mlx, mlx-lm and transformers refuse a model.
REFUSALS = (ValueError, KeyError, TypeError, RuntimeError, OSError, AttributeError)


def convert_folder(source: Path, target: Path, options: Options, own_code: bool = False) -> None:
    """Convert a folder in transformers' format, or quantise a model folder, into `target` (not there yet).

    `own_code`: the folder's model file is one that we wrote. No other code of a folder is run. Raises
    ConversionError for a model that mlx-lm cannot load, quantise or write.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), _quiet_transformers():
            mlx_lm_convert(
                str(source),
                str(target),
                quantize=options.quantize,
                q_bits=options.bits if options.quantize else None,
                q_group_size=options.group_size if options.quantize else None,
                dtype=options.dtype,
                trust_remote_code=own_code,
            )
    except REFUSALS as error:
        if "Unable to write" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
            raise ConversionError(
                f"cannot write the result: {error}", "free some space, or choose another disk with `--output`"
            ) from error
        raise ConversionError(_reason(source, error), _hint(error)) from error


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """transformers warns of every kind of model that it does not know; mlx-lm is who must know it."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _reason(source: Path, error: Exception) -> str:
    name = type(error).__name__ if isinstance(error, KeyError | json.JSONDecodeError) else ""
    return f"mlx-lm cannot convert {source}: {name} {error}".replace(":  ", ": ")


def _hint(error: Exception) -> str:
    text = str(error)
    if "not supported" in text:
        return "`pip install --upgrade mlx-lm` may know this kind of model; mlx-lm lists what it runs"
    if "custom module" in text or "trust_remote_code" in text:
        return (
            "the model brings its own code, which is not run; look for a version that mlx-lm knows by itself"
        )
    if isinstance(error, OSError):
        return "check the disk's space and permissions, and the folder that `--output` names"
    return "weights and config.json must come from the same model: download it again"
