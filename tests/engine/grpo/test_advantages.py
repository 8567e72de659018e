"""Advantages by hand."""

import math
import random

import numpy as np
import pytest

from grpo_cli.config.fields import choices
from grpo_cli.engine.grpo.advantages import (
    ESTIMATORS,
    compute_advantages,
    decoupled_advantages,
    decoupled_rewards,
)

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


# --- each reward normalized before the sum -----------------------------------------------------------

CORRECT_AND_LENGTH = [[1.0, 1.0], [0.0, 2.0], [0.0, 1.0], [0.0, 2.0]]  # (G, K)


def test_each_reward_is_normalized_in_its_group_and_the_sums_in_the_batch() -> None:
    # correct: mean 1/4, std 1/2: 1.5, −0.5 …; length: mean 3/2, std √(1/3): ∓ 0.5 / √(1/3)
    one, half = 0.75 / 0.5001, 0.25 / 0.5001
    far = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    sums = [one - far, far - half, -half - far, far - half]
    assert decoupled_rewards(CORRECT_AND_LENGTH, [1.0, 1.0]) == pytest.approx(sums, rel=1e-12)
    # a second group of equal rewards: its four sums of 0 belong to the batch, whose mean is 0, n − 1 = 7
    scale = math.sqrt(sum(value**2 for value in sums) / 7) + 1e-4
    first, second = decoupled_advantages([CORRECT_AND_LENGTH, [[3.0, 0.1]] * 4], [1.0, 1.0])
    assert first == pytest.approx([value / scale for value in sums], rel=1e-9)
    assert second == [0.0] * 4


def test_a_large_reward_does_not_drown_a_small_one() -> None:
    scaled = [[1000.0 * correct, length] for correct, length in CORRECT_AND_LENGTH]
    [plain] = decoupled_advantages([CORRECT_AND_LENGTH], [1.0, 1.0])
    [large] = decoupled_advantages([scaled], [1.0, 1.0])
    assert large == pytest.approx(plain, abs=5e-4)  # the 1e-4 beside the standard deviation
    [weighted] = decoupled_advantages([CORRECT_AND_LENGTH], [1.0, 0.0])
    # mean 1/4, std 1/2 → 1.4997, …; their std 0.9998 → 1.5 and −0.5 but for the two 1e-4
    assert weighted == pytest.approx([1.49985, -0.49995, -0.49995, -0.49995], abs=1e-5)


def test_sums_that_cancel_are_exactly_zero() -> None:
    assert decoupled_rewards([[1.0, 0.1], [0.0, 0.2]], [1.0, 1.0]) != [0.0, 0.0]  # by the 1e-4
    assert decoupled_rewards([[3.0, 1.0], [1.0, 3.0]], [1.0, 1.0]) == [0.0, 0.0]
    assert decoupled_rewards([[0.1, 0.7]] * 3, [1.0, 2.0]) == [0.0] * 3


def test_a_reward_that_does_not_apply_is_left_out_of_its_function_and_of_the_sum() -> None:
    # a: 1 and 3, mean 2, std √2; b: one value only, so nothing to compare it with
    step = 1.0 / (math.sqrt(2) + 1e-4)
    sums = decoupled_rewards([[1.0, None], [3.0, 5.0], [None, None]], [2.0, 7.0])
    assert sums == [pytest.approx(-2 * step), pytest.approx(2 * step), None]
    [advantages] = decoupled_advantages([[[1.0, None], [3.0, 5.0], [None, None]]], [2.0, 7.0])
    scale = 2 * step * math.sqrt(2) + 1e-4  # two sums: n − 1 = 1
    assert advantages == pytest.approx([-2 * step / scale, 2 * step / scale, 0.0])
    assert decoupled_advantages([[[None], [None]]], [1.0]) == [[0.0, 0.0]]


def nanstd(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    return np.asarray(np.nanstd(values, axis=axis, ddof=1, keepdims=axis is not None))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_formula_with_nan_on_random_rewards(seed: int) -> None:
    """TRL 1.16's steps in numpy: nanmean and nanstd by function and group, nansum, then over the batch."""
    dice = random.Random(seed)
    groups = [
        [[None if dice.random() < 0.2 else dice.gauss(0, 3) for _ in range(3)] for _ in range(5)]
        for _ in range(4)
    ]
    weights = [1.0, 0.5, -2.0]
    table = np.array(groups, dtype=float)  # (P, G, K), None as NaN
    normal = (table - np.nanmean(table, axis=1, keepdims=True)) / (nanstd(table, axis=1) + 1e-4)
    sums = np.nansum(normal * np.array(weights), axis=2)
    sums[np.isnan(table).all(axis=2)] = np.nan
    expected = np.nan_to_num((sums - np.nanmean(sums)) / (nanstd(sums) + 1e-4), nan=0.0)
    np.testing.assert_allclose(decoupled_advantages(groups, weights), expected, atol=1e-12)
