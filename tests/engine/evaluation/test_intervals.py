"""The statistics against hand-computed and published values."""

from itertools import combinations

import numpy as np
import pytest

from grpo_cli.engine.evaluation.intervals import (
    bootstrap,
    compare_pairs,
    histogram,
    pass_at_k,
    wilson_interval,
)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(5, 2, 2) == 0.7  # 1 − C(3, 2) / C(5, 2) = 1 − 3 / 10
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 2, 3) == 1.0  # three of four always hold one of the two right ones


def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one() -> None:
    outcomes = [1, 1, 1, 0, 0, 0, 0]
    draws = list(combinations(outcomes, 3))
    assert pass_at_k(7, 3, 3) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_refuses_what_has_no_meaning(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_interval_as_published(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_are_exact() -> None:
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0


def test_wilson_interval_widens_with_confidence() -> None:
    # 5 of 10 at 99 %: 0.5 ± z / (2 · sqrt(10 + z²)) = 0.5 ± 2.575829 / 8.157164
    assert wilson_interval(5, 10, confidence=0.99) == pytest.approx((0.1842, 0.8158), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_what_has_no_meaning(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no interval"):
        wilson_interval(successes, n)


def test_bootstrap_of_equal_differences_is_a_point() -> None:
    assert bootstrap([0.5] * 20) == (0.5, 0.5)
    assert bootstrap([0.0] * 20) == (0.0, 0.0)


def test_bootstrap_of_two_items_takes_both_ends() -> None:
    # A resample of (0, 1) has mean 0, ½ or 1 with chances ¼, ½, ¼: 2.5 % lies at 0 and 97.5 % at 1.
    assert bootstrap([0.0, 1.0]) == (0.0, 1.0)


def test_bootstrap_comes_near_the_normal_interval() -> None:
    # 100 differences, 60 of 1 and 40 of 0: mean 0.6, standard error sqrt(0.24 / 100) = 0.049.
    low, high = bootstrap([1.0] * 60 + [0.0] * 40)
    assert (low, high) == pytest.approx((0.504, 0.696), abs=0.011)


def test_bootstrap_is_decided_by_its_seed_and_not_by_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = [0.1, -0.4, 0.7, 0.2, 0.05]
    whole = bootstrap(differences, samples=500, seed=3)
    assert whole == bootstrap(differences, samples=500, seed=3)
    assert whole != bootstrap(differences, samples=500, seed=4)
    monkeypatch.setattr("grpo_cli.engine.evaluation.intervals.RESAMPLE_BLOCK", 50)
    in_blocks = bootstrap(differences, samples=500, seed=3)
    assert in_blocks == pytest.approx(whole, abs=0.06)


def test_bootstrap_needs_items() -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


def pairs(better: int, worse: int, items: int) -> list[float]:
    """Differences of `items` items: one model alone is right on `better`, the other one on `worse`."""
    return [1.0] * better + [-1.0] * worse + [0.0] * (items - better - worse)


@pytest.mark.parametrize(
    ("better", "worse", "items", "p", "verdict"),
    [
        (1, 0, 1, 1.0, "no significant difference"),  # 2 · 1/2
        (4, 0, 200, 0.125, "no significant difference"),  # 2 · 1/16
        (5, 0, 200, 0.0625, "no significant difference"),  # 2 · 1/32
        (6, 0, 200, 0.03125, "better"),
        (0, 6, 200, 0.03125, "worse"),
        (9, 1, 10, 0.021484375, "better"),  # 2 · (1 + 10) / 1024
        (1, 9, 30, 0.021484375, "worse"),
        (4, 4, 9, 1.0, "no significant difference"),
        (0, 0, 5, 1.0, "no significant difference"),
    ],
)
def test_one_paired_test_by_hand(better: int, worse: int, items: int, p: float, verdict: str) -> None:
    result = compare_pairs(pairs(better, worse, items))
    assert result.p == pytest.approx(p, rel=1e-12)
    assert result.difference == pytest.approx((better - worse) / items)
    assert result.verdict == verdict
    low, high = result.interval
    assert -1 <= low <= result.difference <= high <= 1
    assert (low <= 0 <= high) is (p > 0.05) or low == 0 or high == 0


def test_one_item_says_nothing() -> None:
    assert compare_pairs([1.0]).interval == (-1.0, 1.0)


def test_p_of_several_completions_an_item_by_hand() -> None:
    # 0.5, 0.5, -1: of the eight signs of the steps, sums ≤ 0: −2, −1, −1, 0, 0 of −2 −1 −1 0 0 1 1 2
    assert compare_pairs([0.5, 0.5, -1.0]).p == 1.0
    assert compare_pairs([0.25, 0.5, 0.75, 1.0]).p == 0.125  # only all signs negative: 2 · 1/16
    assert compare_pairs([1 / 3] * 6).p == pytest.approx(0.03125)


def test_verdict_interval_and_p_agree() -> None:
    for items in (8, 40, 200):
        for better in range(8):
            for worse in range(4):
                low, high = (result := compare_pairs(pairs(better, worse, items), samples=2000)).interval
                if result.verdict == "no significant difference":
                    assert result.p > 0.05
                    assert low <= 0 <= high
                else:
                    assert result.p <= 0.05
                    assert low >= 0 if result.verdict == "better" else high <= 0


def test_the_interval_holds_the_true_difference_19_times_in_20() -> None:
    """300 seeded draws of 100 items for two true differences: 0.95 with a standard error of 0.013."""
    rng = np.random.default_rng(5)
    for chances in ([0.1, 0.8, 0.1], [0.05, 0.6, 0.35]):  # of −1, 0, 1
        true = chances[2] - chances[0]
        draws = rng.choice([-1.0, 0.0, 1.0], size=(300, 100), p=chances)
        held = sum(low <= true <= high for low, high in (compare_pairs(d, 1000).interval for d in draws))
        assert 0.91 <= held / 300 <= 0.99


def test_equal_models_are_told_apart_once_in_20_at_most() -> None:
    rng = np.random.default_rng(6)
    draws = rng.choice([-1.0, 0.0, 1.0], size=(400, 60), p=[0.2, 0.6, 0.2])
    wrong = sum(compare_pairs(d, 200).verdict != "no significant difference" for d in draws)
    assert wrong / 400 <= 0.06


def test_thousands_of_items() -> None:
    assert compare_pairs(pairs(1000, 1000, 2000), 1000).p == 1.0
    assert 0 < compare_pairs(pairs(1100, 900, 2000), 1000).p < 1e-4
    with pytest.raises(ValueError, match="at least one"):
        compare_pairs([])


def test_histogram_by_hand() -> None:
    assert histogram([0, 0.5, 1, 1.5, 2], bins=4) == ([1, 1, 1, 2], [0, 0.5, 1, 1.5, 2])
    assert histogram([3.0, 3.0], bins=1) == ([2], [2.5, 3.5])
    assert histogram([], bins=2) == ([0, 0], [0, 0.5, 1])
    with pytest.raises(ValueError, match="finite"):
        histogram([float("nan")], bins=2)
