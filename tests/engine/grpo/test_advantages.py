"""Advantages by hand."""

import pytest

from grpo_cli.config.fields import choices
from grpo_cli.engine.grpo.advantages import ESTIMATORS, compute_advantages

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


# --- the other estimators -------------------------------------------------------------------------

# A third completion that no reward applies to. Means 1/2 and 3; of all four rewards 7/4.
MIXED = [[1.0, None, 0.0], [2.0, 4.0, None]]


def test_rloo_compares_with_the_others() -> None:
    """[3, 0, 0]: others' means 0, 1.5, 1.5; without scaling."""
    assert compute_advantages([[3.0, 0.0, 0.0]], "group", "rloo") == [pytest.approx([3.0, -1.5, -1.5])]
    assert compute_advantages(MIXED, "group", "rloo") == [[1.0, 0.0, -1.0], [-2.0, 2.0, 0.0]]
    assert compute_advantages([[5.0, None, None]], "group", "rloo") == [[0.0, 0.0, 0.0]]


def test_reinforce_plus_plus_has_a_global_baseline() -> None:
    """Squares 9/16 + 49/16 + 1/16 + 81/16 = 140/16, / 3: std 1.707825. A group of one right answer learns."""
    first, second = compute_advantages(MIXED, "group", "reinforce_plus_plus")
    std = (140 / 16 / 3) ** 0.5 + 1e-4
    assert first == pytest.approx([-0.75 / std, 0.0, -1.75 / std])
    assert second == pytest.approx([0.25 / std, 2.25 / std, 0.0])
    equal = compute_advantages([[1.0, 1.0], [0.0, 0.0]], "group", "reinforce_plus_plus")
    half = 0.5 / ((1 / 3) ** 0.5 + 1e-4)
    assert equal == [[pytest.approx(half)] * 2, [pytest.approx(-half)] * 2]


def test_reinforce_plus_plus_with_the_groups_baseline() -> None:
    """Differences ±1/2 and ∓1, squares 2.5, / 3."""
    first, second = compute_advantages(MIXED, "none", "reinforce_plus_plus_baseline")
    std = (2.5 / 3) ** 0.5 + 1e-4
    assert first == pytest.approx([0.5 / std, 0.0, -0.5 / std])
    assert second == pytest.approx([-1 / std, 1 / std, 0.0])


def test_maxrl_divides_by_the_success_rate() -> None:
    """One right of four: (1 − 1/4) / (1/4) = 3; none right: nothing."""
    (one, none) = compute_advantages([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]], "group", "maxrl")
    assert one == pytest.approx([0.75 / 0.2501, -0.25 / 0.2501, -0.25 / 0.2501, -0.25 / 0.2501])
    assert none == [0.0] * 4


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_and_missing_rewards_are_exactly_zero(estimator: str) -> None:
    for rewards in ([[0.1, 0.1, 0.1]], [[None, None]], [[0.3, None]]):
        assert compute_advantages(rewards, "group", estimator) == [[0.0] * len(rewards[0])]


def test_the_key_names_every_estimator() -> None:
    assert choices("advantage_estimator") == ("grpo", *ESTIMATORS)
