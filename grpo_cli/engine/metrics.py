"""The numbers of a step, from its rollouts: the log's line and what the display shows."""

import math
import statistics
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from grpo_cli import device
from grpo_cli.engine.rollout.buffer import DrawnGroups
from grpo_cli.rewards.notes import averages
from grpo_cli.rewards.table import unique
from grpo_cli.types import RolloutGroup, StopReason

HIGH_REWARD, HIGH_GRAD_NORM = 10.0, 10.0  # above them something is wrong more often than not
SOMETIMES = ("skipped", "flags", "unscored_fraction")  # keys of some lines, which no reward may log under
# Four tokens in a row do not come twice by chance in prose; shorter runs do ("of the", the digits of a sum).
NGRAM = 4
SHORTEST = 8  # items; what is shorter has too few n-grams for a share of them to mean anything


def anomalies(line: dict[str, Any]) -> dict[str, str]:
    """What is not as it should be in a step's line: a short name, and a sentence with the cure."""
    found = {}
    several = sum(key.startswith("rewards/") for key in line) > 1  # else there is none to drown
    if several and (line["reward_mean"] or 0.0) > HIGH_REWARD:
        found["reward_mean > 10"] = (
            f"the mean reward is {line['reward_mean']:.1f}; rewards beyond 10 drown the others: scale them "
            "with `reward_weights`"
        )
    if (line["grad_norm"] or 0.0) > HIGH_GRAD_NORM:
        found["grad_norm > 10"] = (
            f"the gradient's norm is {line['grad_norm']:.1f}; it is clipped to `max_grad_norm`, but if it "
            "stays so, lower `learning_rate`"
        )
    if line.get("unscored_fraction"):
        found["no reward applies"] = (
            f"every reward returned None for {100 * line['unscored_fraction']:.0f} % of the completions: "
            "they are compared with none and teach nothing; let one reward give each of them a number"
        )
    if "skipped" in line:
        found["skipped update"] = f"NaN or infinite {line['skipped']}: the update is skipped"
    return found


def step_metrics(
    step: int,
    epoch: float,
    groups: list[RolloutGroup],
    update: dict[str, Any],
    drawn: DrawnGroups,
    dynamic_sampling: bool,
    seconds: float,
) -> dict[str, Any]:
    """The log's line of a step. Its seconds also hold rewards and the reference's logprobs."""
    line = {
        "step": step,
        "epoch": epoch,
        **update,
        **rollout_metrics(groups),
        **(drawn.numbers() if dynamic_sampling else {}),
        "rollout_seconds": drawn.seconds,
        "step_seconds": seconds,
        "rollout_tokens_per_second": drawn.tokens / drawn.seconds if drawn.seconds > 0 else None,
        "peak_memory_gb": device.peak_memory_gb(),
    }
    for name, value in averages(drawn.metrics).items():
        line[unique(name, {*line, *SOMETIMES})] = value
    found = anomalies(line)
    return {**line, "flags": list(found)} if found else line


def rollout_metrics(groups: list[RolloutGroup]) -> dict[str, Any]:
    """Reward, length and diversity of a step's completions.

    reward_std is the mean over groups of the sample standard deviation; zero_std_fraction the share
    of groups whose rewards are all equal, which can teach nothing; unscored_fraction, where there are any,
    that of completions no reward applies to, which count in neither; entropy the mean over tokens, in nats;
    repetition the mean share of 4-grams of tokens that stood in their completion before.
    Where top_k, top_p or min_p cut tokens off, kept_mass is the mean over tokens of the probability kept.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    by_group = [group.scores for group in groups]
    rewards = [reward for scores in by_group for reward in scores]
    unscored = 1.0 - len(rewards) / len(rollouts)
    entropies = [entropy for rollout in rollouts for entropy in rollout.trained(rollout.entropies)]
    masses = [math.exp(kept) for r in rollouts if r.log_kept for kept in r.trained(r.log_kept)]
    names = rollouts[0].rewards
    return {
        "entropy": statistics.fmean(entropies),
        **({"kept_mass": statistics.fmean(masses)} if masses else {}),
        "reward_mean": mean(rewards),
        "reward_std": statistics.fmean(statistics.stdev(r) if len(r) > 1 else 0.0 for r in by_group),
        **{f"rewards/{name}": mean(rollout.rewards[name] for rollout in rollouts) for name in names},
        "zero_std_fraction": statistics.fmean(len(set(scores)) < 2 for scores in by_group),
        **({"unscored_fraction": unscored} if unscored else {}),
        "completion_length_mean": statistics.fmean(rollout.length for rollout in rollouts),
        "truncated_fraction": statistics.fmean(r.stop_reason is StopReason.LENGTH for r in rollouts),
        "repetition": statistics.fmean(repetition(rollout.trained_ids) for rollout in rollouts),
    }


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the numbers; None where there are none, as of a reward that applied to no completion."""
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def repetition(items: Sequence[Hashable]) -> float:
    """Share of a completion's 4-grams that repeat an earlier one: 1 − distinct / all; 0 below 8 items.

    As rep-4 of Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training", section 6. Items
    are token ids, or words where ids were not kept.
    """
    if len(items) < SHORTEST:
        return 0.0
    ngrams = [tuple(items[start : start + NGRAM]) for start in range(len(items) - NGRAM + 1)]
    return 1.0 - len(set(ngrams)) / len(ngrams)
