"""A model's parameters, its gradients or an optimizer's state as one flat table of arrays."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten


def flat(tree: Any) -> dict[str, mx.array]:
    """Name → array of every array in the tree: `{"layers.0.weight": …}`. Other leaves are left out."""
    leaves: Any = tree_flatten(tree)
    return {name: leaf for name, leaf in leaves if isinstance(leaf, mx.array)}
