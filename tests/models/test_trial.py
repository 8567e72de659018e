"""Weights that are not numbers are found, and only these."""

import mlx.core as mx
import pytest

from grpo_cli.models.trial import first_broken

SOUND = {
    "ids": mx.array([1, 2]),
    "zeros": mx.zeros((2, 3)),
    "sum overflows": mx.full((4,), 60_000.0, dtype=mx.float16),
    "sum overflows in float32": mx.full((4,), 3e38),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_array_with_a_broken_number_is_named(value: float) -> None:
    broken = mx.array([[1.0, 2.0], [value, 3.0]], dtype=mx.bfloat16)
    assert first_broken({**SOUND, "broken": broken}) == "broken"
    assert first_broken({"zeros": SOUND["zeros"], "broken": broken, "second": broken}) == "broken"


def test_infinities_that_cancel_are_found() -> None:
    assert first_broken({"both": mx.array([float("inf"), float("-inf")])}) == "both"


def test_finite_numbers_are_sound_whatever_their_sum() -> None:
    assert first_broken(SOUND) is None
    assert first_broken({}) is None
