"""The statistics against hand-computed and published values."""

from itertools import combinations

import pytest

from grpo_cli.engine.statistics import (
    histogram,
    mcnemar_p,
    paired_bootstrap,
    pass_at_k,
    verdict,
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
    assert paired_bootstrap([0.5] * 20) == (0.5, 0.5)
    assert paired_bootstrap([0.0] * 20) == (0.0, 0.0)


def test_bootstrap_of_two_items_takes_both_ends() -> None:
    # A resample of (0, 1) has mean 0, ½ or 1 with chances ¼, ½, ¼: 2.5 % lies at 0 and 97.5 % at 1.
    assert paired_bootstrap([0.0, 1.0]) == (0.0, 1.0)


def test_bootstrap_comes_near_the_normal_interval() -> None:
    # 100 differences, 60 of 1 and 40 of 0: mean 0.6, standard error sqrt(0.24 / 100) = 0.049.
    low, high = paired_bootstrap([1.0] * 60 + [0.0] * 40)
    assert (low, high) == pytest.approx((0.504, 0.696), abs=0.011)


def test_bootstrap_is_decided_by_its_seed_and_not_by_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = [0.1, -0.4, 0.7, 0.2, 0.05]
    whole = paired_bootstrap(differences, samples=500, seed=3)
    assert whole == paired_bootstrap(differences, samples=500, seed=3)
    assert whole != paired_bootstrap(differences, samples=500, seed=4)
    monkeypatch.setattr("grpo_cli.engine.statistics.RESAMPLE_BLOCK", 50)
    in_blocks = paired_bootstrap(differences, samples=500, seed=3)
    assert in_blocks == pytest.approx(whole, abs=0.06)


def test_bootstrap_needs_items() -> None:
    with pytest.raises(ValueError, match="at least one"):
        paired_bootstrap([])


def test_verdict_needs_an_interval_without_zero() -> None:
    assert verdict(0.01, 0.2) == "better"
    assert verdict(-0.2, -0.01) == "worse"
    assert verdict(-0.01, 0.2) == "not told apart"
    assert verdict(0.0, 0.2) == "not told apart"


def test_mcnemar_by_hand() -> None:
    assert mcnemar_p(1, 9) == 0.021484375  # 2 · (1 + 10) / 1024
    assert mcnemar_p(9, 1) == 0.021484375
    assert mcnemar_p(0, 5) == 0.0625
    assert mcnemar_p(4, 4) == 1.0
    assert mcnemar_p(0, 0) == 1.0


def test_mcnemar_of_thousands_of_items() -> None:
    assert mcnemar_p(1000, 1000) == 1.0
    assert 0 < mcnemar_p(900, 1100) < 1e-4
    with pytest.raises(ValueError, match="negative"):
        mcnemar_p(-1, 2)


def test_histogram_by_hand() -> None:
    assert histogram([0, 0.5, 1, 1.5, 2], bins=4) == ([1, 1, 1, 2], [0, 0.5, 1, 1.5, 2])
    assert histogram([3.0, 3.0], bins=1) == ([2], [2.5, 3.5])
    assert histogram([], bins=2) == ([0, 0], [0, 0.5, 1])
    with pytest.raises(ValueError, match="finite"):
        histogram([float("nan")], bins=2)
