"""The numbers of a step, from its rollouts: the log's line and what the display shows."""

import statistics
from typing import Any

from grpo_cli.types import RolloutGroup, StopReason


def rollout_metrics(groups: list[RolloutGroup]) -> dict[str, Any]:
    """Reward, length and diversity of a step's completions.

    reward_std is the mean over groups of the sample standard deviation; zero_std_fraction the share
    of groups whose rewards are all equal, which can teach nothing; entropy the mean over tokens, in nats.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    by_group = [[rollout.reward for rollout in group.rollouts] for group in groups]
    entropies = [entropy for rollout in rollouts for entropy in rollout.entropies]
    names = rollouts[0].rewards
    return {
        "entropy": statistics.fmean(entropies),
        "reward_mean": statistics.fmean(rollout.reward for rollout in rollouts),
        "reward_std": statistics.fmean(statistics.stdev(rewards) for rewards in by_group),
        **{f"rewards/{name}": statistics.fmean(r.rewards[name] for r in rollouts) for name in names},
        "zero_std_fraction": statistics.fmean(len(set(rewards)) == 1 for rewards in by_group),
        "completion_length_mean": statistics.fmean(len(rollout.token_ids) for rollout in rollouts),
        "truncated_fraction": statistics.fmean(r.stop_reason is StopReason.LENGTH for r in rollouts),
    }
