"""A model's parameters, its gradients or an optimizer's state as one flat table of arrays."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten


def flat(tree: Any) -> dict[str, mx.array]:
    """Name → array of every array in the tree: `{"layers.0.weight": …}`. Other leaves are left out."""
    leaves: Any = tree_flatten(tree)
    return {name: leaf for name, leaf in leaves if isinstance(leaf, mx.array)}


def count_parameters(model: nn.Module) -> int:
    """Numbers that the model's weights stand for; a quantised weight counts as what it was."""
    arrays = flat(model.parameters())
    count = sum(array.size for array in arrays.values())
    for name, module in model.named_modules():
        if f"{name}.scales" in arrays:
            packed = arrays[f"{name}.weight"].size
            extra = sum(arrays[f"{name}.{part}"].size for part in ("scales", "biases") if part in module)
            count += packed * 32 // module.bits - packed - extra
    return count
