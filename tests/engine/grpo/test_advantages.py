"""Advantages by hand."""

import pytest

from grpo_cli.engine.grpo.advantages import compute_advantages

REWARDS = [[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]]


def test_group_scaling_uses_bessels_correction() -> None:
    # mean 0.5, sum of squares 1.0, over n − 1 = 3: std 0.57735; 0.5 / 0.57745 = 0.86588
    first, second = compute_advantages(REWARDS, "group")
    assert first == pytest.approx([0.865875, -0.865875, -0.865875, 0.865875], abs=1e-6)
    assert second == [0.0, 0.0, 0.0, 0.0]


def test_batch_scaling_uses_the_spread_of_all_rewards() -> None:
    # all eight: mean 1.25, squares 2·0.0625 + 2·1.5625 + 4·0.5625 = 5.5, / 7: std 0.886405
    first, second = compute_advantages(REWARDS, "batch")
    assert first == pytest.approx(
        [0.5 / 0.886505, -0.5 / 0.886505, -0.5 / 0.886505, 0.5 / 0.886505], abs=1e-6
    )
    assert second == [0.0] * 4


def test_no_scaling_is_the_difference_to_the_mean() -> None:
    assert compute_advantages([[3.0, 0.0, 0.0]], "none") == [[2.0, -1.0, -1.0]]


def test_equal_rewards_are_exactly_zero_where_their_mean_is_not() -> None:
    assert sum([0.1] * 3) / 3 != 0.1  # the noise that must not become a gradient
    for scale in ("group", "batch", "none"):
        assert compute_advantages([[0.1, 0.1, 0.1]], scale) == [[0.0, 0.0, 0.0]]
