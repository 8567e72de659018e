"""The difference of two gradients."""

import mlx.core as mx
from mlx.utils import tree_flatten

from grpo_cli.engine.update.gradient import Gradients, global_norm


def largest_difference(a: Gradients, b: Gradients) -> float:
    """Largest difference of two gradient trees, relative to the larger's norm."""
    pairs = zip(tree_flatten(a), tree_flatten(b), strict=True)
    return max(mx.abs(x - y).max().item() for (_, x), (_, y) in pairs) / max(global_norm(a), 1e-12)
