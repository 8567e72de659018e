"""The gated delta rule in chunks against the recurrence, in values and gradients."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import gated_delta as of_mlx_lm

from grpo_cli.models import gated_delta
from grpo_cli.models.gated_delta import chunked, chunked_gated_delta, decay_between, unit_lower_inverse
from tests.support.kind_trials import make

NAMES = ("q", "k", "v", "g", "beta", "state")


def inputs(length: int, seed: int = 0, key_heads: int = 2, channels: bool = False) -> dict[str, mx.array]:
    mx.random.seed(seed)
    normal = mx.random.normal
    found = {
        "q": normal((2, length, key_heads, 12)),
        "k": normal((2, length, key_heads, 12)),
        "v": normal((2, length, 4, 6)),
        "g": mx.sigmoid(normal((2, length, 4, 12) if channels else (2, length, 4)) + 1),
        "beta": mx.sigmoid(normal((2, length, 4))),
        "state": normal((2, 4, 6, 12)),
    }
    for name in ("q", "k"):
        found[name] /= mx.linalg.norm(found[name], axis=-1, keepdims=True)
    return found


def with_gradients(
    function: Any, arrays: dict[str, mx.array], mask: mx.array | None = None
) -> list[mx.array]:
    """The outputs where they count, the last state, and the gradients of a sum of both."""

    def loss(*values: mx.array) -> tuple[mx.array, list[mx.array]]:
        outputs, state = function(*values, mask)
        if mask is not None:
            outputs = mx.where(mask[..., None, None], outputs, 0.0)
        return mx.sin(outputs).sum() + mx.cos(state).sum(), [outputs, state]

    values = [arrays[name] for name in NAMES]
    (_, found), gradients = mx.value_and_grad(loss, argnums=list(range(len(values))))(*values)
    return [*found, *gradients]


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("length", [2, 16, 37, 130])
def test_values_and_gradients_are_those_of_the_recurrence(
    length: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gated_delta, "CHUNKS", {"cpu": size})
    arrays = inputs(length)
    expected = with_gradients(gated_delta.one_by_one, arrays)
    for found, wanted in zip(with_gradients(chunked, arrays), expected, strict=True):
        assert found.shape == wanted.shape
        assert mx.abs(found - wanted).max().item() < 2e-5 * max(1.0, mx.abs(wanted).max().item())


def test_mlx_s_own_operation_is_the_recurrence_too() -> None:
    """On a CPU MLX computes it token by token, too, so it would save nothing; the chunks agree with it."""
    own = getattr(mx.fast, "gated_delta_update", None)
    if own is None:
        pytest.skip("this MLX has no gated_delta_update")
    arrays = inputs(37)
    expected = with_gradients(lambda *values: own(*values[:6]), arrays)
    for found, wanted in zip(with_gradients(chunked, arrays), expected, strict=True):
        assert mx.abs(found - wanted).max().item() < 2e-5 * max(1.0, mx.abs(wanted).max().item())


def test_one_step_by_hand() -> None:
    """S = g S₀ + β (v − g S₀ k) kᵀ, y = S q, for two tokens in numpy."""
    arrays = inputs(2, key_heads=4)
    state = np.array(arrays["state"])[0, 0]
    for at in range(2):
        q, k, v = (np.array(arrays[name])[0, at, 0] for name in "qkv")
        g, beta = (np.array(arrays[name])[0, at, 0] for name in ("g", "beta"))
        state = g * state
        state = state + np.outer(beta * (v - state @ k), k)
    outputs, last = chunked(*[arrays[name] for name in NAMES])
    np.testing.assert_allclose(np.array(last)[0, 0], state, atol=1e-6)
    np.testing.assert_allclose(np.array(outputs)[0, 1, 0], state @ q, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_tokens_change_no_state(side: str) -> None:
    arrays = inputs(21)
    seen = mx.arange(21) >= 5 if side == "left" else mx.arange(21) < 16
    mask = mx.stack([seen, mx.ones(21, dtype=mx.bool_)])
    expected = with_gradients(gated_delta.one_by_one, arrays, mask)
    for found, wanted in zip(with_gradients(chunked, arrays, mask), expected, strict=True):
        assert mx.abs(found - wanted).max().item() < 1e-5


@pytest.mark.parametrize("case", ["decay of 0", "equal keys", "forgets nothing"])
def test_extremes(case: str) -> None:
    arrays = inputs(70)
    if case == "decay of 0":
        arrays["g"] = mx.where(mx.random.uniform(shape=arrays["g"].shape) < 0.3, 0.0, arrays["g"])
    else:
        arrays["g"] = mx.ones_like(arrays["g"])
    if case == "equal keys":
        arrays["k"] = mx.broadcast_to(arrays["k"][:, :1], arrays["k"].shape)
        arrays["beta"] = mx.ones_like(arrays["beta"])
    values = [arrays[name] for name in NAMES]
    for found, wanted in zip(chunked(*values), gated_delta.one_by_one(*values), strict=True):
        assert mx.abs(found - wanted).max().item() < 1e-4
    gradients = with_gradients(chunked, arrays)[2:]
    assert all(mx.isfinite(gradient).all().item() for gradient in gradients)


def test_decays_of_channels_and_single_tokens_stay_with_the_recurrence() -> None:
    for arrays in (inputs(9, channels=True, key_heads=4), inputs(1)):
        values = [arrays[name] for name in NAMES]
        for found, wanted in zip(chunked(*values), gated_delta.one_by_one(*values), strict=True):
            assert mx.array_equal(found, wanted)


def test_the_inverse_of_a_triangle() -> None:
    rng = np.random.default_rng(0)
    for size in (8, 16, 64):
        lower = np.tril(rng.normal(size=(3, 2, size, size)), -1).astype(np.float32) / 4
        exact = np.linalg.inv(np.eye(size) + lower.astype(np.float64))
        np.testing.assert_allclose(np.array(unit_lower_inverse(mx.array(lower))), exact, rtol=1e-4, atol=1e-4)


def test_decays_between_by_hand() -> None:
    found = decay_between(mx.array([0.5, 0.25, 0.1]))
    expected = [[1.0, 0.0, 0.0], [0.25, 1.0, 0.0], [0.025, 0.1, 1.0]]
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-6)


def test_a_model_gives_the_same_logits_and_mlx_lm_is_left_as_it_was() -> None:
    model, ids = make("qwen3_5"), mx.array([[5, 9, 17, 33, 12, 44, 7, 21, 30, 3, 14] * 4])
    expected = model(ids)
    kept = of_mlx_lm.gated_delta_ops
    with chunked_gated_delta():
        assert of_mlx_lm.gated_delta_ops is chunked
        found = model(ids)
    assert of_mlx_lm.gated_delta_ops is kept
    assert 0.0 < mx.abs(found - expected).max().item() < 1e-4
