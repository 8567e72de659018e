"""The gated activation of most models, silu(gate) · x, with two arrays less kept for its backward on a CPU.

    with lean_activations(model):
        logits = model(ids)              # and the gradient of what is made of them

mlx-lm's `swiglu` is compiled to one kernel on Metal and CUDA. Uncompiled, its forward keeps σ(gate) and
silu(gate) for the backward, of each layer's intermediate size, beside gate, x and the product; here they are
computed again, elementwise and without a matrix product. The sigmoid is the quicker one of fast_exp.py
where MLX's is slow, the one that the sampler has (shared_prompt.py): results differ from MLX's by rounding.

Source: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202, eq. 6 (SwiGLU, β = 1).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import activations

from grpo_cli import device
from grpo_cli.cpu.fast_exp import has_slow_exp, sigmoid_by_power


def sigmoid(x: mx.array) -> mx.array:
    """σ(x) of any shape, as quick as the device can."""
    return sigmoid_by_power(x) if has_slow_exp() else mx.sigmoid(x)


def gated(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) · x, elementwise, of any shape; of it only gate and x are kept for the backward.

    With s = σ(gate): ∂/∂gate = x · (s + gate·s − gate·s²), ∂/∂x = gate · s.
    """
    if gate.dtype != mx.float32 or x.dtype != mx.float32 or gate.shape != x.shape:
        whole: mx.array = activations.swiglu(gate, x)
        return whole

    @mx.custom_function
    def forward(gate: mx.array, x: mx.array) -> mx.array:
        return gate * sigmoid(gate) * x

    def backward(primals: Any, cotangent: mx.array, result: mx.array) -> tuple[mx.array, mx.array]:
        del result
        later: Any = mx.depends(list(primals), [cotangent])  # not before the backward has come here
        gate, x = later
        s = sigmoid(gate)
        silu = gate * s
        return cotangent * x * (s + silu - silu * s), cotangent * silu

    forward.vjp(backward)
    found: Any = forward(gate, x)
    result: mx.array = found
    return result


@contextmanager
def lean_activations(model: nn.Module) -> Iterator[None]:
    """Within the block the model's layers compute `swiglu` by `gated`; on a CPU only."""
    kinds = {type(module).__module__ for module in model.modules()} if device.prepare().kind == "cpu" else ()
    files: list[Any] = [sys.modules[name] for name in kinds if name in sys.modules]
    replaced = [file for file in files if getattr(file, "swiglu", None) is activations.swiglu]
    for file in replaced:
        file.swiglu = gated
    try:
        yield
    finally:
        for file in replaced:
            file.swiglu = activations.swiglu
