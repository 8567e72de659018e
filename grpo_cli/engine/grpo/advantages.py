"""Group-relative advantages: each completion's reward compared with those of the same prompt.

    rewards [[1, 0, 0, 1]]  →  mean 0.5, std 0.577  →  [[0.866, −0.866, −0.866, 0.866]]

One prompt has G completions, its group. A completion better than the group's mean gets a positive advantage:
the loss (losses.py) makes its tokens likelier. A worse one gets a negative advantage: its tokens become less
likely. The group's mean takes the place of PPO's learned value model.

Source: GRPO (Shao et al. 2024, arXiv:2402.03300, section 4.1). Without the division by the standard deviation
(`scale_rewards = "none"`) it is Dr. GRPO (Liu et al. 2025, arXiv:2503.20783); with the standard deviation of
the whole batch (`"batch"`) it is Lite PPO (arXiv:2508.08221). Departs from the GRPO paper as TRL does: the
standard deviation divides by n − 1, and 1e-4 is added to it.
"""

import statistics
from collections.abc import Sequence

EPSILON = 1e-4


Rewards = Sequence[float | None]  # (G,) None: no reward applies, so the completion is left out


def compute_advantages(rewards: Sequence[Rewards], scale_rewards: str = "group") -> list[list[float]]:
    """Advantages (P, G) of rewards (P, G): (reward − group mean) / (std + 1e-4).

    `scale_rewards`: std is that of the `group`, that of the whole `batch`, or the division is left out
    (`none`). A group of equal rewards gets exactly 0, since floating-point noise in its mean must not become
    a gradient. A reward of None gets 0, too.
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
