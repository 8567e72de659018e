"""Adaptive entropy: a coefficient of the entropy bonus that grows while the entropy is below its target.

    coefficient 0.010, step 0.005, target 0.2       entropy 0.15 → 0.015        entropy 0.30 → 0.005
    the bonus of the next update                    applied at 0.015            not applied

The mean entropy of an update decides over the next one, so that all microbatches of an update have the same
coefficient. Before the first update nothing is measured, and no bonus is applied.

Source: Skywork-OR1, arXiv:2505.22312, section on adaptive entropy control; TRL's `use_adaptive_entropy`. The
mean is over the tokens that the bonus acts on: all trained tokens of the update.
"""

import math

from grpo_cli.config.keys_of_the_loss import LossKeys


def applied_coefficient(keys: LossKeys, coefficient: float, entropy: float | None) -> float:
    """The coefficient of an update. `entropy`: the mean of the update before, in nats; None = none yet."""
    return coefficient if entropy is not None and entropy <= keys.entropy_target else 0.0


def next_coefficient(keys: LossKeys, coefficient: float, entropy: float) -> float:
    """The coefficient after an update with this mean entropy: one step up or down, within its bounds.

    An entropy that is NaN leaves it as it is.
    """
    if math.isnan(entropy):
        return coefficient
    if entropy <= keys.entropy_target:
        return min(coefficient + keys.entropy_coeff_delta, keys.entropy_coeff_max)
    return max(coefficient - keys.entropy_coeff_delta, keys.entropy_coeff_min)
