"""The learning rate by hand: 10 updates, 2 of them warmup, peak 1."""

import math

import pytest

from grpo_cli.engine.grpo.lr_schedule import learning_rate


def rates(shape: str, warmup: float = 0.2) -> list[float]:
    return [learning_rate(step, 10, 1.0, warmup, shape) for step in range(1, 11)]


def test_warmup_rises_to_the_peak_and_never_begins_at_zero() -> None:
    assert rates("constant") == [0.5, 1.0] + [1.0] * 8


def test_linear_falls_evenly() -> None:
    assert rates("linear")[2:] == pytest.approx([1 - k / 8 for k in range(8)])


def test_cosine_is_half_way_in_the_middle() -> None:
    values = rates("cosine")
    assert values[2] == 1.0
    assert values[6] == pytest.approx(0.5)
    assert values[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))


def test_without_warmup_the_first_update_has_the_peak() -> None:
    assert rates("cosine", warmup=0.0)[0] == 1.0
