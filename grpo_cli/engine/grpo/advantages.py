"""Rewards to advantages: how much better than its group was each completion?

    rewards [[1, 0, 0, 1]]  →  mean 0.5, std 0.577  →  [[0.866, −0.866, −0.866, 0.866]]

Group-relative advantages are GRPO's (Shao et al. 2024, arXiv:2402.03300, section 4.1); `none` is Dr.
GRPO's (Liu et al. 2025, arXiv:2503.20783) and `batch` Lite PPO's (arXiv:2508.08221) choice. Departs from
the first paper in Bessel's correction and the 1e-4 beside the standard deviation, as TRL has them.
"""

import statistics
from collections.abc import Sequence

EPSILON = 1e-4


Rewards = Sequence[float | None]  # (G,) None: no reward applies, so it is compared with none


def compute_advantages(rewards: Sequence[Rewards], scale_rewards: str = "group") -> list[list[float]]:
    """Advantages (P, G) of rewards (P, G): (r − group mean) / (std + 1e-4).

    The standard deviation is the group's, the whole batch's, or left out (`none`). A group of equal
    rewards gets exactly 0: floating-point noise in its mean must not become a gradient. So does None.
    """
    batch_std = _std([reward for group in rewards for reward in group if reward is not None])
    return [_group_advantages(group, scale_rewards, batch_std) for group in rewards]


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
