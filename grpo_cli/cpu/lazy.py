"""The order in which MLX, which is lazy, evaluates arrays that do not need each other."""

from typing import Any

import mlx.core as mx


def after(array: mx.array, earlier: list[mx.array]) -> mx.array:
    """The array with a dependency: MLX computes what is made of it after `earlier`."""
    if not earlier:
        return array
    later: Any = mx.depends([array], earlier)  # a list for a list
    result: mx.array = later[0]
    return result
