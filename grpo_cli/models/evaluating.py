"""Run a model as in evaluation for a while.

    with evaluating(model):
        logits = model(tokens, cache=cache)

Some models of mlx-lm choose by `training`: between a Metal kernel, which is fast and has no gradient, and
operations that have one (gated delta, state space). A model that is trained therefore samples in this block.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.nn as nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode; afterwards in the mode it had."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
