"""Convert models in transformers' format, and quantize any folder, with parts of mlx-lm's converter.

`mlx_lm.convert` itself would run the folder's code for a model of ours, which mlx-lm does not have.
"""

import contextlib
import errno
import io
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path
from mlx_lm.utils import quantize_model, save_config, save_model

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import Options
from grpo_cli.models.classes import LOAD_ERRORS, NEWER, UnknownKind, load_weights, save_code
from grpo_cli.models.load import DTYPES

# Errors of mlx and mlx-lm for a model they refuse.
CONVERSION_ERRORS = (*LOAD_ERRORS, AttributeError)


def convert_folder(source: Path, target: Path, options: Options) -> None:
    """Write a folder's model into `target` in MLX format, quantized if requested; without the tokenizer.

    Raises ConversionError for a model that mlx-lm cannot load, quantize or write, ModelError for one that
    needs its own code.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model, config = load_weights(source)
            _cast(model, options.dtype or _own_dtype(config))
            if options.quantize:
                model, config = quantize_model(model, config, options.group_size, options.bits)
            target.mkdir(exist_ok=True)
            has_vision = "vision_tower" in getattr(model, "model", {})
            save_model(target, model, donate_model=True)
            save_code(config, target)
            save_config(config, target / "config.json", keep_vision_config=has_vision)
    except CONVERSION_ERRORS as error:
        if "Unable to write" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
            raise ConversionError(
                f"cannot write the result: {error}", "free some space, or choose another disk with `--output`"
            ) from error
        raise ConversionError(_reason(source, error), _hint(error)) from error


def _own_dtype(config: dict[str, Any]) -> str | None:
    """The number format named in config.json."""
    text = config.get("text_config")
    return config.get("torch_dtype") or (text.get("dtype") if isinstance(text, dict) else None)


def _cast(model: nn.Module, dtype: str | None) -> None:
    """Cast the weights to a number format, except those whose type the model fixes."""
    if dtype not in DTYPES:
        return
    keeps = getattr(model, "cast_predicate", lambda _: True)

    def cast(name: str, array: mx.array) -> mx.array:
        is_cast = keeps(name) and mx.issubdtype(array.dtype, mx.floating)
        return array.astype(DTYPES[dtype]) if is_cast else array

    model.update(tree_map_with_path(cast, model.parameters()))


def _reason(source: Path, error: Exception) -> str:
    name = type(error).__name__ if isinstance(error, KeyError | json.JSONDecodeError) else ""
    return f"mlx-lm cannot convert {source}: {name} {error}".replace(":  ", ": ")


def _hint(error: Exception) -> str:
    if isinstance(error, UnknownKind):
        return NEWER
    if isinstance(error, OSError):
        return "check the disk's space and permissions, and the folder that `--output` names"
    return "weights and config.json must come from the same model: download it again"
