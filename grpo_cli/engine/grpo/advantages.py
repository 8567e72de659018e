"""Advantages: each completion's reward compared with those of the same prompt, or of the whole batch.

    rewards [[1, 0, 0, 1]]  →  mean 0.5, std 0.577  →  [[0.866, −0.866, −0.866, 0.866]]

One prompt has G completions, its group. A completion better than the group's mean gets a positive advantage:
the loss (losses.py) makes its tokens likelier. A worse one gets a negative advantage: its tokens become less
likely. The group's mean takes the place of PPO's learned value model.

Source: GRPO (Shao et al. 2024, arXiv:2402.03300, section 4.1). Without the division by the standard deviation
(`scale_rewards = "none"`) it is Dr. GRPO (Liu et al. 2025, arXiv:2503.20783); with the standard deviation of
the whole batch (`"batch"`) it is Lite PPO (arXiv:2508.08221). Departs from the GRPO paper as TRL does: the
standard deviation divides by n − 1, and 1e-4 is added to it.

The other estimators (`advantage_estimator`) have a baseline and a scale of their own:

    rloo                            reward − mean of the other rewards of the group
    reinforce_plus_plus             (reward − mean of the batch) / std of the batch
    reinforce_plus_plus_baseline    (reward − mean of the group) / std of these differences in the batch
    maxrl                           (reward − mean of the group) / mean of the group

With `multi_objective_aggregation = "normalize_then_sum"` each reward function is normalized by itself before
the weighted sum, so that one with a large spread does not drown the others: GDPO (arXiv:2601.05242), as in
TRL 1.16.

    correct [1, 0, 0, 0] → [1.5, −0.5, −0.5, −0.5]    length [1, 2, 1, 2] → [−0.87, 0.87, −0.87, 0.87]
    their sum [0.63, 0.37, −1.37, 0.37] is then divided by the standard deviation of all sums of the batch
"""

import math
import statistics
from collections.abc import Callable, Sequence

EPSILON = 1e-4
SAME = 1e-9  # sums of normalized rewards that differ by less differ by rounding

Rewards = Sequence[float | None]  # (G,) None: no reward applies, so the completion is left out
Components = Sequence[Rewards]  # (G, K) of each reward function; None: it does not apply
Estimator = Callable[[Sequence[Rewards]], list[list[float]]]


def compute_advantages(
    rewards: Sequence[Rewards], scale_rewards: str = "group", estimator: str = "grpo"
) -> list[list[float]]:
    """Advantages (P, G) of rewards (P, G), by default (reward − group mean) / (std + 1e-4).

    `scale_rewards`, for the estimator grpo: std is that of the `group`, that of the whole `batch`, or the
    division is left out (`none`). A group of equal rewards gets exactly 0, since floating-point noise in its
    mean must not become a gradient; with reinforce_plus_plus only a batch of equal rewards does. A reward of
    None gets 0, too.
    """
    if estimator != "grpo":
        return ESTIMATORS[estimator](rewards)
    batch_std = _std(_all(rewards))
    return [_scaled(group, _scale(group, scale_rewards, batch_std)) for group in rewards]


def decoupled_advantages(groups: Sequence[Components], weights: Sequence[float]) -> list[list[float]]:
    """GDPO's advantages (P, G) of rewards (P, G, K): sums of normalized rewards, scaled by the batch.

    (sum − batch mean) / (batch std + 1e-4). A completion that no reward applies to gets 0, and so does a
    group of equal sums. Source: GDPO, arXiv:2601.05242; TRL 1.16, `normalize_then_sum`.
    """
    sums = [decoupled_rewards(group, weights) for group in groups]
    compared = [value for group in sums for value in group if value is not None]
    mean, scale = statistics.fmean(compared) if compared else 0.0, _std(compared) + EPSILON
    return [
        [0.0 if value is None or not any(group) else (value - mean) / scale for value in group]
        for group in sums
    ]


def decoupled_rewards(group: Components, weights: Sequence[float]) -> list[float | None]:
    """Weighted sums (G,) of one group's rewards (G, K), each reward normalized within the group.

    A reward that does not apply is left out of its function's mean and std, and of the completion's sum; the
    sum is None if none applies. All sums are exactly 0 if they are equal.
    """
    columns = compute_advantages(list(zip(*group, strict=True)))  # (K, G)
    rows = zip(*columns, strict=True)  # (G, K)
    sums = [math.fsum(w * value for w, value in zip(weights, row, strict=True)) for row in rows]
    if not sums or max(sums) - min(sums) < SAME:
        sums = [0.0] * len(group)
    applies = [any(value is not None for value in row) for row in group]
    return [total if is_scored else None for total, is_scored in zip(sums, applies, strict=True)]


def leave_one_out(rewards: Sequence[Rewards]) -> list[list[float]]:
    """RLOO: reward − mean of the group's other rewards = (reward − group mean) · n / (n − 1).

    Ahmadian et al. 2024, arXiv:2402.14740, eq. 7. The KL term stays in the loss (`kl_coeff`); there and in
    TRL's RLOOTrainer it is subtracted from the reward.
    """
    counts = [max(2, len(_scored(group))) for group in rewards]
    return [_scaled(group, (n - 1) / n) for group, n in zip(rewards, counts, strict=True)]


def whitened(rewards: Sequence[Rewards]) -> list[list[float]]:
    """REINFORCE++: (reward − mean of the batch) / (std of the batch + 1e-4); the batch is the baseline.

    Hu et al. 2025, arXiv:2501.03262. The mean is over completions, as in TRL's `normalize_advantages`, not
    over tokens.
    """
    whole = _scaled([reward for group in rewards for reward in group], _std(_all(rewards)) + EPSILON)
    values = iter(whole)
    return [[next(values) for _ in group] for group in rewards]


def whitened_differences(rewards: Sequence[Rewards]) -> list[list[float]]:
    """REINFORCE++ with the group's mean as baseline: (reward − group mean) / (std in the batch + 1e-4).

    The same paper's variant for several completions per prompt. The differences have a mean of 0.
    """
    differences = [_scaled(group, 1.0) for group in rewards]
    scored = [
        value
        for group, values in zip(rewards, differences, strict=True)
        for reward, value in zip(group, values, strict=True)
        if reward is not None
    ]
    scale = _std(scored) + EPSILON
    return [[value / scale for value in group] for group in differences]


def divided_by_success(rewards: Sequence[Rewards]) -> list[list[float]]:
    """MaxRL: (reward − group mean) / (group mean + 1e-4): hard prompts, seldom solved, count more.

    Tajwar et al. 2026, arXiv:2602.02710: for rewards of 0 and 1 the gradient is that of the logarithm of the
    success rate. A group whose mean is not above 0 gets 0, as it has no success.
    """
    means = [statistics.fmean(_scored(group) or [0.0]) for group in rewards]
    return [
        _scaled(group, mean + EPSILON) if mean > 0.0 else [0.0] * len(group)
        for group, mean in zip(rewards, means, strict=True)
    ]


ESTIMATORS: dict[str, Estimator] = {
    "rloo": leave_one_out,
    "reinforce_plus_plus": whitened,
    "reinforce_plus_plus_baseline": whitened_differences,
    "maxrl": divided_by_success,
}


def _scale(group: Rewards, scale_rewards: str, batch_std: float) -> float:
    """The divisor of a group's advantages in GRPO."""
    return {"group": _std(_scored(group)) + EPSILON, "batch": batch_std + EPSILON, "none": 1.0}[scale_rewards]


def _scaled(group: Rewards, scale: float) -> list[float]:
    """(reward − mean) / scale of each reward; exactly 0 if all are equal, and for None."""
    compared = _scored(group)
    if len(set(compared)) < 2:
        return [0.0] * len(group)
    mean = statistics.fmean(compared)
    return [0.0 if reward is None else (reward - mean) / scale for reward in group]


def _scored(group: Rewards) -> list[float]:
    return [reward for reward in group if reward is not None]


def _all(rewards: Sequence[Rewards]) -> list[float]:
    return [reward for group in rewards for reward in _scored(group)]


def _std(values: list[float]) -> float:
    """Sample standard deviation (n − 1); 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
