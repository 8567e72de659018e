"""Metrics of a step: the line of training_log.jsonl, which the display shows, too."""

import math
import statistics
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from grpo_cli import device
from grpo_cli.engine.rollout.buffer import DrawnGroups
from grpo_cli.rewards.judging import JUDGE_UNREAD
from grpo_cli.rewards.notes import NAN_FRACTION, averages
from grpo_cli.types import Rollout, RolloutGroup, StopReason
from grpo_cli.words import plural

MOST_UNREAD = 0.5  # share of a judge's answers without a number from which on it is reported
HIGH_REWARD, HIGH_GRAD_NORM = 10.0, 10.0  # values above these mostly indicate a problem
SOMETIMES = (  # optional keys that rewards may not use
    "skipped", "flags", "unscored_fraction", "unscored_groups", "kept_mass", "turns_mean", "tool_seconds",
    "rollout_batches", "groups_drawn", "groups_discarded", "reward_mean_drawn",
    "importance_sampling_ratio_mean", "importance_sampling_ratio_max", "importance_sampling_capped",
    "machine_actions", "paused_seconds",
)  # fmt: skip
# In prose four tokens in a row do not repeat by chance; shorter runs do ("of the", the digits of a sum).
NGRAM = 4
SHORTEST = 8  # items; a shorter completion has too few n-grams for a meaningful share


def anomalies(line: dict[str, Any]) -> dict[str, str]:
    """Anomalies in a step's line: a short name and a sentence with the remedy for each."""
    found = {}
    several = sum(key.startswith("rewards/") for key in line) > 1  # else there is no other reward to dominate
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
        whole = line.get("unscored_groups", 0)
        among = f", among them {plural(whole, 'whole group')}" if whole else ""
        found["no reward applies"] = (
            f"every reward returned None for {100 * line['unscored_fraction']:.0f} % of the "
            f"completions{among}: these are left out of training; let at least one reward return a number "
            "for each completion"
        )
    if (line.get(JUDGE_UNREAD) or 0.0) > MOST_UNREAD:
        found["judge"] = (
            f"{100 * line[JUDGE_UNREAD]:.0f} % of the judge's answers hold no number, so that its reward "
            "does not apply; read `judge_answer` in completions.jsonl: raise `judge_max_tokens` if they are "
            "cut off, or change `judge_prompt`"
        )
    for key in [key for key in line if key.startswith(NAN_FRACTION)]:
        found[key] = (
            f"reward `{key.removeprefix(NAN_FRACTION)}` returned NaN for {100 * line[key]:.0f} % of the "
            "completions, which counts as None, it does not apply; if that is not meant, look for a 0 / 0"
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
    """The log line of a step. step_seconds includes the rewards and the reference's logprobs."""
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
        "cache_memory_gb": device.cache_memory() / 1e9,
    }
    line |= averages(drawn.metrics, {*line, *SOMETIMES})
    found = anomalies(line)
    return {**line, "flags": list(found)} if found else line


def rollout_metrics(groups: list[RolloutGroup]) -> dict[str, Any]:
    """Reward, length and diversity of a step's completions.

    reward_std: mean over groups of the sample standard deviation. zero_std_fraction: share of groups without
    an advantage, since their rewards are all equal. unscored_fraction: share of completions that no reward
    applies to, and unscored_groups: number of groups of only such completions, if there are any; the two
    before leave them out. entropy: mean over tokens, in nats.
    repetition: mean share of 4-grams of tokens that occur earlier in their completion. kept_mass: mean over
    tokens of the probability that top_k, top_p and min_p keep, only if one of them is set.
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
        "zero_std_fraction": statistics.fmean(not any(r.advantage for r in g.rollouts) for g in groups),
        **({"unscored_fraction": unscored} if unscored else {}),
        **({"unscored_groups": by_group.count([])} if [] in by_group else {}),
        "completion_length_mean": statistics.fmean(rollout.length for rollout in rollouts),
        "truncated_fraction": statistics.fmean(r.stop_reason is StopReason.LENGTH for r in rollouts),
        "repetition": statistics.fmean(repetition(rollout.trained_ids) for rollout in rollouts),
        **environment_metrics(rollouts),
    }


def environment_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """Turns and tool calls of a step's completions; nothing if no environment answered any of them.

    tools/calls_mean: calls per completion. tools/failure_rate: share of the calls that gave an error or no
    result. turns_mean: turns per completion. tool_seconds: time in environments, summed over completions.
    """
    uses = [rollout.use for rollout in rollouts if rollout.use is not None]
    calls = sum(use.calls for use in uses)
    if not calls and all(use.turns == 1 for use in uses):
        return {}
    return {
        "tools/calls_mean": calls / len(rollouts),
        "tools/failure_rate": sum(use.failures for use in uses) / max(1, calls),
        "turns_mean": statistics.fmean(use.turns for use in uses),
        "tool_seconds": sum(use.seconds for use in uses),
    }


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None without any, e.g. a reward that never applied."""
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def repetition(items: Sequence[Hashable]) -> float:
    """Share of a completion's 4-grams that repeat an earlier one: 1 − distinct / all; 0 below 8 items.

    rep-4 of Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training", section 6. Items
    are token ids, or words if the ids are not known.
    """
    if len(items) < SHORTEST:
        return 0.0
    ngrams = [tuple(items[start : start + NGRAM]) for start in range(len(items) - NGRAM + 1)]
    return 1.0 - len(set(ngrams)) / len(ngrams)
