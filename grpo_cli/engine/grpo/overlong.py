"""DAPO's soft overlong punishment: a penalty for completions close to max_new_tokens.

    max_new_tokens 100, soft_overlong_tokens 20:   80 tokens → 0    90 → −0.5    100 → −1

The penalty is added to the reward, so it enters the advantages. The log has it as `rewards/soft_overlong`.
"""

from grpo_cli.rewards.table import unique
from grpo_cli.types import RolloutGroup


def soft_overlong(length: int, max_new_tokens: int, cache: int) -> float:
    """The penalty, 0 to −1, of a completion of `length` tokens, end token included.

    DAPO (arXiv:2503.14476), eq. 13, with L_max = max_new_tokens and L_cache = cache > 0; TRL's
    `get_soft_overlong_punishment`.
    """
    return min(0.0, max(-1.0, (max_new_tokens - cache - length) / cache))


def punish_overlong(groups: list[RolloutGroup], max_new_tokens: int, cache: int) -> None:
    """Add the penalty to every rollout's reward, and record it as `soft_overlong`; cache 0 = no penalty."""
    for rollout in [rollout for group in groups for rollout in group.rollouts] if cache else []:
        penalty = soft_overlong(rollout.length, max_new_tokens, cache)
        rollout.rewards[unique("soft_overlong", rollout.rewards)] = penalty
        rollout.reward += penalty
