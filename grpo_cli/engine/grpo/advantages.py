"""Group-relative advantages: each completion's reward compared with those of the same prompt.

    rewards [[1, 0, 0, 1]]  →  mean 0.5, std 0.577  →  [[0.866, −0.866, −0.866, 0.866]]

One prompt has G completions, its group. A completion better than the group's mean gets a positive advantage:
the loss (losses.py) makes its tokens likelier. A worse one gets a negative advantage: its tokens become less
likely. The group's mean takes the place of PPO's learned value model.

Source: GRPO (Shao et al. 2024, arXiv:2402.03300, section 4.1). Without the division by the standard deviation
(`scale_rewards = "none"`) it is Dr. GRPO (Liu et al. 2025, arXiv:2503.20783); with the standard deviation of
the whole batch (`"batch"`) it is Lite PPO (arXiv:2508.08221). Departs from the GRPO paper as TRL does: the
standard deviation divides by n − 1, and 1e-4 is added to it.

With `multi_objective_aggregation = "normalize_then_sum"` each reward function is normalized by itself before
the weighted sum, so that one with a large spread does not drown the others: GDPO (arXiv:2601.05242), as in
TRL 1.16.

    correct [1, 0, 0, 0] → [1.5, −0.5, −0.5, −0.5]    length [1, 2, 1, 2] → [−0.87, 0.87, −0.87, 0.87]
    their sum [0.63, 0.37, −1.37, 0.37] is then divided by the standard deviation of all sums of the batch
"""

import math
import statistics
from collections.abc import Sequence

EPSILON = 1e-4


SAME = 1e-9  # sums of normalized rewards that differ by less differ by rounding

Rewards = Sequence[float | None]  # (G,) None: no reward applies, so the completion is left out
Components = Sequence[Rewards]  # (G, K) of each reward function; None: it does not apply


def compute_advantages(rewards: Sequence[Rewards], scale_rewards: str = "group") -> list[list[float]]:
    """Advantages (P, G) of rewards (P, G): (reward − group mean) / (std + 1e-4).

    `scale_rewards`: std is that of the `group`, that of the whole `batch`, or the division is left out
    (`none`). A group of equal rewards gets exactly 0, since floating-point noise in its mean must not become
    a gradient. A reward of None gets 0, too.
    """
    batch_std = _std([reward for group in rewards for reward in group if reward is not None])
    return [_group_advantages(group, scale_rewards, batch_std) for group in rewards]


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
    columns = [_group_advantages(column, "group", 0.0) for column in zip(*group, strict=True)]  # (K, G)
    rows = zip(*columns, strict=True)  # (G, K)
    sums = [math.fsum(w * value for w, value in zip(weights, row, strict=True)) for row in rows]
    if not sums or max(sums) - min(sums) < SAME:
        sums = [0.0] * len(group)
    applies = [any(value is not None for value in row) for row in group]
    return [total if is_scored else None for total, is_scored in zip(sums, applies, strict=True)]


def _group_advantages(group: Rewards, scale_rewards: str, batch_std: float) -> list[float]:
    compared = [reward for reward in group if reward is not None]
    if len(set(compared)) < 2:
        return [0.0] * len(group)
    mean = statistics.fmean(compared)
    scale = {"group": _std(compared) + EPSILON, "batch": batch_std + EPSILON, "none": 1.0}[scale_rewards]
    return [0.0 if reward is None else (reward - mean) / scale for reward in group]


def _std(values: list[float]) -> float:
    """Sample standard deviation (n − 1); 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
