"""The layers of mlx-lm that store much for their gradient, in forms that store less.

with lean_layers(model):
    loss, gradient = mx.value_and_grad(…)
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.nn as nn

from grpo_cli.cpu.attention import blockwise_attention
from grpo_cli.cpu.swiglu import lean_activations
from grpo_cli.models.gated_delta import chunked_gated_delta


@contextmanager
def lean_layers(model: nn.Module) -> Iterator[None]:
    """Within the block attention, gated activations and the gated delta rule store less.

    Results differ by rounding.
    """
    with blockwise_attention(), lean_activations(model), chunked_gated_delta():
        yield
