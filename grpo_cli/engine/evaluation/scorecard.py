"""Scorecard of an evaluation: scores with confidence intervals, and the comparison of two models.

    card = scorecard(evaluation)          # accuracy 0.44 [0.37, 0.51], pass@k, rewards, format, length
    compared = compare(before, after)     # +0.51 [0.43, 0.58]: better

Everything is plain data, so `--json` prints the numbers that the tables show.
"""

import statistics
from typing import Any

from grpo_cli.engine.evaluation.evaluate import Evaluation
from grpo_cli.engine.evaluation.intervals import (
    bootstrap,
    compare_pairs,
    histogram,
    pass_at_k,
    wilson_interval,
)
from grpo_cli.engine.metrics import mean

REWARD_BINS = 8


def scorecard(evaluation: Evaluation) -> dict[str, Any]:
    """Scores of one model. With several completions per item, accuracy is the mean over all completions."""
    items = item_scores(evaluation)
    # Completions of one item are not independent, so items are resampled. If all items score the same,
    # the bootstrap interval would have width 0, so the interval of a proportion is used.
    simple = len(set(items)) == 1 or all(len(correct) == 1 for correct in evaluation.correct)
    interval = wilson_interval(round(sum(items)), len(items)) if simple else bootstrap(items)
    return {
        "accuracy": evaluation.accuracy,
        "accuracy_interval": list(interval),
        "samples": len(evaluation.groups),
        "correct": sum(sum(correct) for correct in evaluation.correct),
        "completions": len(evaluation.rollouts),
        "pass_at_k": pass_at_ks(evaluation),
        "format": evaluation.format_rate,
        "length_mean": evaluation.length_mean,
        "truncated_fraction": evaluation.truncated_fraction,
        "rewards": reward_distributions(evaluation),
        "seconds": evaluation.seconds,
    }


def item_scores(evaluation: Evaluation) -> list[float]:
    """Share of right completions of each item."""
    return [statistics.fmean(correct) for correct in evaluation.correct]


def pass_at_ks(evaluation: Evaluation) -> dict[str, float]:
    """pass@1, pass@2, pass@4 … up to the completions per item, each as the mean over items."""
    n = min(len(correct) for correct in evaluation.correct)
    ks = [2**power for power in range(n.bit_length())]
    if n not in ks:
        ks.append(n)
    return {
        str(k): statistics.fmean(pass_at_k(len(correct), sum(correct), k) for correct in evaluation.correct)
        for k in ks
    }


def reward_distributions(evaluation: Evaluation) -> dict[str, Any]:
    """Mean and histogram of each reward over the completions it applies to; mean None if there are none."""
    distributions = {}
    for name in evaluation.rollouts[0].rewards:
        told = [rollout.rewards[name] for rollout in evaluation.rollouts]
        values = [value for value in told if value is not None]
        distributions[name] = {"mean": mean(values), **distribution(values)}
    return distributions


def distribution(values: list[float]) -> dict[str, Any]:
    """Counts per distinct value if there are few (a reward is often 0 or 1), else a histogram."""
    distinct = sorted(set(values))
    if len(distinct) <= REWARD_BINS:
        return {"values": distinct, "counts": [values.count(value) for value in distinct]}
    counts, edges = histogram(values, REWARD_BINS)
    return {"edges": edges, "counts": counts}


def compare(baseline: Evaluation, candidate: Evaluation) -> dict[str, Any]:
    """Candidate minus baseline on the same items, by one paired test: difference, interval, p, verdict."""
    before, after = item_scores(baseline), item_scores(candidate)
    differences = [new - old for old, new in zip(before, after, strict=True)]
    result = compare_pairs(differences)
    only_candidate, only_baseline = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return {
        "accuracy_difference": result.difference,
        "interval": list(result.interval),
        "p": result.p,
        "verdict": result.verdict,
        "only_model_right": only_candidate,
        "only_compared_right": only_baseline,
    }
