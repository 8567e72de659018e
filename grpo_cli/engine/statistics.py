"""How sure a measured score is: intervals, pass@k and paired comparisons of two models.

    wilson_interval(8, 10)     → (0.4902, 0.9433): eight of ten right says little yet
    pass_at_k(n=5, c=2, k=2)   → 0.7: chance that one of two completions is right
    paired_bootstrap([1, 0, 1, -1, …]) → the interval of the mean difference, item by item

Two models are compared on the same items, so that what is hard for both cancels out.
"""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np

Verdict = Literal["better", "worse", "not told apart"]

RESAMPLE_BLOCK = 2_000_000  # indices drawn at once: 16 MB, whatever the number of items


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k completions is right, when c of n sampled ones were.

    The unbiased estimator 1 − C(n − c, k) / C(n, k) of Chen et al. 2021, "Evaluating Large Language
    Models Trained on Code", equation 1. Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1.0 - comb(n - c, k) / comb(n, k)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) of a proportion; it stays inside [0, 1] and holds for few samples.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference"; without
    continuity correction. Raises ValueError unless 0 ≤ successes ≤ n, n ≥ 1, 0 < confidence < 1.
    """
    if not (0 <= successes <= n and n >= 1 and 0.0 < confidence < 1.0):
        raise ValueError(f"no interval for {successes} of {n} at confidence {confidence}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    margin = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / scale
    # At the ends the two terms are equal, and rounding must not push the bound past 0 or 1.
    low = 0.0 if successes == 0 else centre - margin
    high = 1.0 if successes == n else centre + margin
    return low, high


def paired_bootstrap(
    differences: Sequence[float], samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval (low, high) of the mean of `differences`, one per item: score b − score a.

    Items are drawn with replacement, `samples` times: Efron and Tibshirani 1993, "An Introduction to
    the Bootstrap", chapter 13. The seed decides the draws. Raises ValueError without items.
    """
    values = np.asarray(differences, dtype=np.float64)  # (N,)
    if values.ndim != 1 or values.size == 0:
        raise ValueError("a paired bootstrap needs at least one difference")
    rng = np.random.default_rng(seed)
    block = max(1, RESAMPLE_BLOCK // values.size)
    means = [
        values[rng.integers(values.size, size=(min(block, samples - done), values.size))].mean(axis=1)
        for done in range(0, samples, block)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def verdict(low: float, high: float) -> Verdict:
    """What an interval of a difference says: `better` or `worse` only if it leaves out 0."""
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "not told apart"


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that two models are right equally often, from the items they differ on.

    `only_a` items were right with model a alone, `only_b` with model b alone. McNemar 1947, "Note on
    the sampling error of the difference between correlated proportions"; the exact form is the
    binomial test with p = 1/2. Raises ValueError for negative counts.
    """
    if only_a < 0 or only_b < 0:
        raise ValueError(f"counts cannot be negative: {only_a} and {only_b}")
    n = only_a + only_b
    tail = sum(comb(n, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)


def histogram(values: Sequence[float], bins: int = 10) -> tuple[list[int], list[float]]:
    """Counts (bins) and edges (bins + 1) of equal intervals from the smallest to the largest value.

    An interval holds its left edge, the last one both (numpy.histogram). Equal values lie in the
    middle of an interval of width 1. Raises ValueError for bins < 1 or values that are not finite.
    """
    counts, edges = np.histogram(np.asarray(values, dtype=np.float64), bins=bins)
    return [int(count) for count in counts], [float(edge) for edge in edges]
