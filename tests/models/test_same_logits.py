"""Logits are compared relative to the largest of them."""

import math

import mlx.core as mx
import pytest

from grpo_cli.models.same_logits import same_logits

LOGITS = mx.array([[-23.0, 0.5, 12.0]])


@pytest.mark.parametrize(
    ("difference", "is_same"),
    [(0.0, True), (2.1e-4, True), (2.2e-3, True), (2.5e-3, False), (1.0, False), (math.nan, False)],
)
def test_the_difference_is_relative_to_the_largest_logit(difference: float, is_same: bool) -> None:
    """1e-4 of 23 is 2.3e-3, whichever logit it is seen at."""
    for place in range(3):
        changed = LOGITS + mx.array([[difference if place == at else 0.0 for at in range(3)]])
        assert same_logits(changed, LOGITS) is is_same


def test_half_precision_rounds_to_a_hundredth() -> None:
    half = LOGITS.astype(mx.bfloat16)
    assert same_logits(half + 0.125, half)
    assert not same_logits(half + 0.5, half)


def test_other_shapes_are_another_result() -> None:
    assert not same_logits(LOGITS[:, :2], LOGITS)
