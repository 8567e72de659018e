"""Adapters moved at random."""

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.models.tree import flat


def shaken(model: nn.Module, by: float = 0.05) -> nn.Module:
    """The model with its adapters moved at random, magnitudes too."""
    mx.random.seed(3)
    moved = [(n, a + by * mx.random.normal(a.shape)) for n, a in flat(model.trainable_parameters()).items()]
    model.load_weights(moved, strict=False)
    return model
