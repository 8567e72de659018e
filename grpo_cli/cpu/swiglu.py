"""The gated activation of most models, silu(gate) · x, storing two arrays less for its backward on a CPU.

    with lean_activations(model):
        logits = model(ids)              # forward and gradient

mlx-lm's `swiglu` is compiled to one kernel on Metal and CUDA. Uncompiled, its forward stores σ(gate) and
silu(gate) for the backward, besides gate, x and the product, all of the layer's intermediate size. Here these
two are recomputed elementwise, without a matrix product. If MLX's sigmoid is slow, that of fast_exp.py is
used, as in the sampler (shared_prompt.py), so results differ from MLX's by rounding.

Source: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202, eq. 6 (SwiGLU, β = 1).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.activations import swiglu

from grpo_cli import device
from grpo_cli.cpu.fast_exp import has_slow_exp, sigmoid_by_power


def sigmoid(x: mx.array) -> mx.array:
    """σ(x) of any shape, by the fastest implementation for the device."""
    return sigmoid_by_power(x) if has_slow_exp() else mx.sigmoid(x)


def gated(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) · x, elementwise, of any shape; only gate and x are stored for the backward.

    With s = σ(gate): ∂/∂gate = x · (s + gate·s − gate·s²), ∂/∂x = gate · s.
    """
    if gate.dtype != mx.float32 or x.dtype != mx.float32 or gate.shape != x.shape:
        whole: mx.array = swiglu(gate, x)
        return whole

    @mx.custom_function
    def forward(gate: mx.array, x: mx.array) -> mx.array:
        return gate * sigmoid(gate) * x

    def backward(primals: Any, cotangent: mx.array, result: mx.array) -> tuple[mx.array, mx.array]:
        del result
        later: Any = mx.depends(list(primals), [cotangent])  # recompute only when the backward gets here
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
    """Replace `swiglu` by `gated` in the model's layers within the block; on a CPU only."""
    kinds = {type(module).__module__ for module in model.modules()} if device.prepare().kind == "cpu" else ()
    files: list[Any] = [sys.modules[name] for name in kinds if name in sys.modules]
    replaced = [file for file in files if getattr(file, "swiglu", None) is swiglu]
    for file in replaced:
        file.swiglu = gated
    try:
        yield
    finally:
        for file in replaced:
            file.swiglu = swiglu
