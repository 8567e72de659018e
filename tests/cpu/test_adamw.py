"""The update in chunks: a hand-computed step, and MLX's bits for every shape, step and strategy."""

import math
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import pytest

from grpo_cli.cpu import adamw
from grpo_cli.cpu.adamw import ChunkedAdamW

SHAPES = [(), (1,), (7, 5), (3, 40_001), (2, 2, 3), (600, 601)]


def fresh(shape: tuple[int, ...]) -> tuple[mx.array, dict[str, mx.array]]:
    return mx.random.normal(shape), {"m": mx.zeros(shape), "v": mx.zeros(shape)}


def run(rule: Any, weight: mx.array, gradients: list[mx.array]) -> list[mx.array]:
    state = {"m": mx.zeros(weight.shape), "v": mx.zeros(weight.shape)}
    for gradient in gradients:
        rule.state["step"] = rule.step + 1
        weight = rule.apply_single(gradient, weight, state)
    return [weight, state["m"], state["v"]]


def test_a_step_by_hand() -> None:
    """g = 2: m = 0.2, v = 0.04, both corrected to g and g²: w = 1 · (1 − 0.1 · 0.5) − 0.1 · 2 / 2 = 0.85."""
    rule = ChunkedAdamW(0.1, betas=[0.9, 0.99], weight_decay=0.5)
    weight, m, v = run(rule, mx.array([1.0]), [mx.array([2.0])])
    assert [weight.item(), m.item(), v.item()] == pytest.approx([0.85, 0.2, 0.04], abs=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_bits_are_mlx_s(shape: tuple[int, ...], decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw, "cores", lambda: 3)  # parts of unequal length
    monkeypatch.setattr(adamw, "ALONE", 1000)
    mx.random.seed(3)
    weight = mx.random.normal(shape)
    gradients = [mx.random.normal(shape) * scale for scale in (1.0, 1e-4, 0.0)]
    if len(shape) == 2:
        gradients[0] = mx.random.normal(shape[::-1]).T  # columns lie next to each other
    options: dict[str, Any] = {"betas": [0.9, 0.99]}
    theirs = (
        optim.AdamW(1e-3, **options, weight_decay=decay, bias_correction=True)
        if decay
        else optim.Adam(1e-3, **options, bias_correction=True)
    )
    expected = run(theirs, weight, gradients)
    found = run(ChunkedAdamW(1e-3, **options, weight_decay=decay), weight, gradients)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert mx.array_equal(one, other)


def test_the_old_arrays_are_left_alone() -> None:
    """Snapshots and retries hold them."""
    rule = ChunkedAdamW(0.1, betas=[0.9, 0.99])
    weight, state = fresh((4, 4))
    gradient, before, moments = mx.ones((4, 4)), mx.array(weight), dict(state)
    rule.state["step"] = rule.step + 1
    rule.apply_single(gradient, weight, state)
    assert mx.array_equal(weight, before)
    assert mx.array_equal(gradient, mx.ones((4, 4)))
    assert not any(array.any().item() for array in moments.values())
    assert state["m"].all().item()


def test_other_dtypes_are_mlx_s_own() -> None:
    half = mx.ones((2,), dtype=mx.bfloat16)
    state = {"m": mx.zeros((2,), dtype=mx.bfloat16), "v": mx.zeros((2,), dtype=mx.bfloat16)}
    rule = ChunkedAdamW(0.5, betas=[0.9, 0.99])
    rule.state["step"] = rule.step + 1
    assert rule.apply_single(half, half, state).tolist() == [0.5, 0.5]


def test_a_weight_without_numbers_and_numbers_that_are_not_finite(recwarn: pytest.WarningsRecorder) -> None:
    for given in ([], [math.nan, math.inf, -math.inf, 3e38]):
        gradient = mx.array(given, dtype=mx.float32)
        options: dict[str, Any] = {"betas": [0.9, 0.99], "weight_decay": 0.1}
        expected = run(optim.AdamW(0.1, **options, bias_correction=True), mx.ones(len(given)), [gradient])
        found = run(ChunkedAdamW(0.1, **options), mx.ones(len(given)), [gradient])
        for one, other in zip(found, expected, strict=True):
            assert mx.array_equal(one, other, equal_nan=True)
    assert not recwarn.list
