"""silu(gate) · x: value and gradient by hand, the same model with and without it, and everything put back."""

import gc
import math

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import activations, llama

from grpo_cli.cpu.swiglu import gated, lean_activations
from tests.support.random_models import llama_policy, nanochat_policy


@pytest.mark.parametrize("gate", [-30.0, -1.5, 0.0, 0.7, 4.0, 30.0])
def test_value_and_gradient_by_hand(gate: float) -> None:
    """y = g·σ(g)·x; dy/dg = x·σ·(1 + g·(1 − σ)); dy/dx = g·σ; all times the cotangent 3."""
    x, s = -2.5, 1 / (1 + math.exp(-gate))
    values, (by_gate, by_x) = mx.value_and_grad(lambda g, x: 3 * gated(g, x).sum(), argnums=(0, 1))(
        mx.array([gate]), mx.array([x])
    )
    assert values.item() == pytest.approx(3 * gate * s * x, rel=1e-5, abs=1e-9)
    assert by_gate.item() == pytest.approx(3 * x * s * (1 + gate * (1 - s)), rel=1e-5, abs=1e-9)
    assert by_x.item() == pytest.approx(3 * gate * s, rel=1e-5, abs=1e-9)


def test_extremes_are_numbers() -> None:
    gates = mx.array([-1e4, 1e4])
    assert gated(gates, mx.ones(2)).tolist() == [0.0, 1e4]
    assert mx.grad(lambda g: gated(g, mx.ones(2)).sum())(gates).tolist() == [0.0, 1.0]


def loss(model: nn.Module, ids: mx.array) -> mx.array:
    return nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:], reduction="mean")


def test_a_model_has_the_same_gradient_and_needs_less() -> None:
    model = llama_policy(intermediate_size=2048, num_hidden_layers=6).model
    ids = mx.random.randint(0, 257, (4, 129))
    peaks, found = [], []

    def measured() -> None:
        mx.clear_cache()
        mx.reset_peak_memory()
        gc.collect()  # what earlier tests left must not be freed within the measurement
        before = mx.get_active_memory()
        value, gradients = nn.value_and_grad(model, loss)(model, ids)
        mx.eval(value, gradients)
        peaks.append(mx.get_peak_memory() - before)
        found.append(dict(tree_flatten(gradients)))

    measured()
    with lean_activations(model):
        assert llama.swiglu is gated
        measured()
    assert llama.swiglu is activations.swiglu
    norm = sum(array.square().sum().item() for array in found[0].values()) ** 0.5
    off = sum((found[1][name] - array).square().sum().item() for name, array in found[0].items()) ** 0.5
    assert norm > 0.01
    assert 0 < off < 1e-5 * norm  # it was computed in another way
    array = 4 * 2048 * 4 * 128  # bytes of one of intermediate size; two of each layer are not kept
    assert peaks[0] - peaks[1] > 6 * array


def test_it_is_put_back_where_a_loss_fails() -> None:
    with pytest.raises(ZeroDivisionError), lean_activations(llama_policy().model):
        assert llama.swiglu is gated
        raise ZeroDivisionError
    assert llama.swiglu is activations.swiglu


def test_a_model_without_it_is_left_alone() -> None:
    with lean_activations(nanochat_policy().model):
        assert llama.swiglu is activations.swiglu


def test_the_file_that_defines_it_is_put_back_too() -> None:
    """A model may have a layer from that file: Apertus has its XieLU, GPT-OSS its SwigluOAI."""
    model = llama_policy().model
    model.layers[0].extra = activations.XieLU()
    assert activations.swiglu is llama.swiglu
    with lean_activations(model), lean_activations(model):
        assert (activations.swiglu, llama.swiglu) == (gated, gated)
        half = mx.array([0.5], dtype=mx.bfloat16)
        assert gated(half, half).item() == pytest.approx(0.5 * 0.5 / (1 + math.exp(-0.5)), rel=0.01)
    assert activations.swiglu is llama.swiglu
    assert activations.swiglu is not gated


def test_other_dtypes_are_mlx_s_own() -> None:
    gate, x = mx.array([0.5], dtype=mx.bfloat16), mx.array([3.0], dtype=mx.bfloat16)
    assert gated(gate, x).item() == activations.swiglu(gate, x).item()
