"""Try out a loaded model: its weights and logits must be finite numbers.

Wrong heads or rotary positions in config.json show only when the model runs, and so does NaN in a weight.
Both are found here, before the model is used.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from grpo_cli.errors import ModelError
from grpo_cli.models.model_files import BREAKDOWNS
from grpo_cli.models.tree import flat

IDS = ((0, 0), (0,))  # a prompt and one further token


def try_out(model: nn.Module, folder: Path) -> None:
    """Raise ModelError for weights that are not numbers, or a model whose logits are not numbers."""
    broken = first_broken(flat(model.parameters()))
    if broken:
        raise ModelError(
            f"The weights in {folder} are broken: {broken} holds NaN or infinite numbers",
            "take an earlier checkpoint, or download the weights again",
            trouble="model-values",
        )
    try:
        logits = _answers(model)
        mx.eval(logits)
        is_sound = all(bool(mx.isfinite(one).all().item()) for one in logits)
    except BREAKDOWNS as error:
        raise ModelError(
            f"The model in {folder} does not run with its config.json: {type(error).__name__}: "
            f"{str(error)[:200]}",
            "copy config.json from the source of the weights",
            trouble="model-weights",
        ) from error
    if not is_sound:
        raise ModelError(
            f"The model in {folder} gives NaN or infinite logits, although all its weights are finite",
            "its weights or a number in config.json are far too large: download both again; "
            '`dtype = "float32"` helps if float16 overflows',
            trouble="model-values",
        )


def _answers(model: Any) -> list[mx.array]:
    """Logits (1, T, V) after a prompt and after one further token."""
    cache = make_prompt_cache(model)
    found = [model(mx.array([list(ids)]), cache=cache) for ids in IDS]
    for logits, ids in zip(found, IDS, strict=True):
        if not isinstance(logits, mx.array) or logits.ndim != 3 or logits.shape[:2] != (1, len(ids)):
            raise ValueError("its output is not logits")
    return found


def first_broken(arrays: dict[str, mx.array]) -> str | None:
    """The name of the first floating-point array with NaN or infinity."""
    floating = {name: array for name, array in arrays.items() if mx.issubdtype(array.dtype, mx.floating)}
    # One such number makes the sum of its array one too; a quarter of the time of looking at each number.
    sums = {name: mx.isfinite(array.sum()) for name, array in floating.items()}
    mx.eval(sums)
    suspects = [name for name, is_finite in sums.items() if not is_finite.item()]
    # A sum of finite numbers may overflow.
    return next((name for name in suspects if not mx.isfinite(floating[name]).all().item()), None)
