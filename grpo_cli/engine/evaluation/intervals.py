"""Statistics of evaluations: confidence intervals, pass@k and paired comparisons of two models.

    wilson_interval(8, 10)     → (0.4902, 0.9433): eight of ten right is weak evidence
    pass_at_k(n=5, c=2, k=2)   → 0.7: probability that at least one of two completions is right
    bootstrap([1, 0, 0.5, …])  → the interval of a mean over items
    compare_pairs([1, 0, 1, -1, …]) → one paired test: difference, interval, p and verdict

Two models are compared on the same items, so the difficulty of the items cancels out.
"""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

Verdict = Literal["better", "worse", "no significant difference"]

SIGNIFICANT = 0.05

RESAMPLE_BLOCK = 2_000_000  # indices drawn at once: 16 MB, whatever the number of items


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k completions is right, estimated from c right ones of n.

    The unbiased estimator 1 − C(n − c, k) / C(n, k) of Chen et al. 2021, "Evaluating Large Language
    Models Trained on Code", equation 1. Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1.0 - comb(n - c, k) / comb(n, k)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval (low, high) of a proportion. It stays within [0, 1] and is valid for few samples.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference"; without
    continuity correction. Raises ValueError unless 0 ≤ successes ≤ n, n ≥ 1, 0 < confidence < 1.
    """
    if not (0 <= successes <= n and n >= 1 and 0.0 < confidence < 1.0):
        raise ValueError(f"no interval for {successes} of {n} at confidence {confidence}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    scale = 1 + z * z / n
    center = (rate + z * z / (2 * n)) / scale
    margin = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / scale
    # At the ends the two terms are equal, and rounding must not push the bound past 0 or 1.
    low = 0.0 if successes == 0 else center - margin
    high = 1.0 if successes == n else center + margin
    return low, high


def bootstrap(
    scores: Sequence[float], samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Bootstrap percentile interval (low, high) of the mean of `scores`, one per item.

    Items are resampled with replacement `samples` times: Efron and Tibshirani 1993, "An Introduction to the
    Bootstrap", chapter 13. The seed makes it reproducible. Raises ValueError without items.
    """
    values = np.asarray(scores, dtype=np.float64)  # (N,)
    if values.ndim != 1 or values.size == 0:
        raise ValueError("a bootstrap needs at least one score")
    rng = np.random.default_rng(seed)
    block = max(1, RESAMPLE_BLOCK // values.size)
    means = [
        values[rng.integers(values.size, size=(min(block, samples - done), values.size))].mean(axis=1)
        for done in range(0, samples, block)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


class Comparison(NamedTuple):
    """Two models on the same items: the mean difference b − a, its 95 % interval, p and the verdict."""

    difference: float
    interval: tuple[float, float]
    p: float
    verdict: Verdict


def compare_pairs(differences: Sequence[float], samples: int = 20_000, seed: int = 0) -> Comparison:
    """Paired sign-flip test of differences within [−1, 1], one per item, with its 95 % interval.

    If the models are equally good, each difference is as likely as its opposite. p is twice the probability
    that random signs give a sum at least as far from 0 on the same side; for right or wrong answers this is
    McNemar's exact test. The interval contains the true differences that the same test does not reject. Its
    ends are quantiles of the means of random subsets of the items (Hartigan 1969, "Using Subsample Values as
    Typical Values"); an empty subset counts on both sides. The verdict is `better` or `worse` if p ≤ 0.05.
    The seed makes the subsets reproducible. Raises ValueError without items.
    """
    values = np.asarray(differences, dtype=np.float64)  # (N,)
    if values.ndim != 1 or values.size == 0:
        raise ValueError("a paired comparison needs at least one difference")
    mean, p = float(values.mean()), sign_flip_p(values)
    low, high = subset_interval(values, samples, seed)
    if p > SIGNIFICANT:  # p is exact, the subsets are random: if they disagree about 0, p decides
        low, high = min(low, 0.0), max(high, 0.0)
        return Comparison(mean, (low, high), p, "no significant difference")
    if mean > 0:
        return Comparison(mean, (max(low, 0.0), high), p, "better")
    return Comparison(mean, (low, min(high, 0.0)), p, "worse")


def sign_flip_p(values: np.ndarray) -> float:
    """Two-sided exact p of the sum of `values` (N,) under random signs, with values rounded to 1/256.

    The sum is distributed like a random walk with the values as steps. Differences of right and wrong answers
    are on the grid exactly; then this is the binomial test with p = 1/2 over the items that differ.
    """
    steps = np.abs(values[values != 0])
    grid = next((n for n in range(1, 65) if np.allclose(steps * n, np.round(steps * n))), 256)
    lengths = [int(length) for length in np.round(steps * grid)]
    total = sum(lengths)
    chances = np.zeros(total + 1)  # distribution of the sum of the positive steps
    chances[0] = 1.0
    for length in lengths:
        chances[length:], chances[:length] = (
            (chances[length:] + chances[: total + 1 - length]) / 2,
            chances[:length] / 2,
        )
    up = sum(length for length, value in zip(lengths, values[values != 0], strict=True) if value > 0)
    tail = chances[: min(up, total - up) + 1].sum()
    return min(1.0, 2 * float(tail))


def subset_interval(values: np.ndarray, samples: int, seed: int) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the mean of random subsets of `values` (N,), within [−1, 1]."""
    rng = np.random.default_rng(seed)
    block = max(1, RESAMPLE_BLOCK // values.size)
    means = []
    for done in range(0, samples, block):
        chosen = rng.integers(0, 2, size=(min(block, samples - done), values.size), dtype=np.int8)
        counts = chosen.sum(axis=1)
        sums = chosen.astype(np.float32) @ values.astype(np.float32)
        means.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    drawn = np.concatenate(means)
    outside = int(SIGNIFICANT / 2 * samples)
    low = np.sort(np.nan_to_num(drawn, nan=-1.0))[outside]
    high = np.sort(np.nan_to_num(drawn, nan=1.0))[samples - 1 - outside]
    return float(low), float(high)


def histogram(values: Sequence[float], bins: int = 10) -> tuple[list[int], list[float]]:
    """Counts (bins) and edges (bins + 1) of equal intervals from the smallest to the largest value.

    Each interval includes its left edge, the last one both edges (numpy.histogram). If all values are equal,
    the range is centered on them with width 1. Raises ValueError for bins < 1 or values that are not finite.
    """
    counts, edges = np.histogram(np.asarray(values, dtype=np.float64), bins=bins)
    return [int(count) for count in counts], [float(edge) for edge in edges]
