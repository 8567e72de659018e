"""Dynamic sampling (draw prompts until enough groups have an advantage), and the buffer of rollouts.

    draw = DrawnGroups(wanted=8, position=40)        # prompts 40 … of the stream come next
    while draw.missing and draw.batches < budget:
        draw.take(sampled(draw.next_count), seconds) # 8 prompts, then as many as are probably needed
    buffer.fill(draw.chosen())                       # 8 groups: 4 steps of 2

Dynamic sampling is DAPO's (Yu et al. 2025, arXiv:2503.14476, section 3.2): groups whose rewards are all equal
have no advantage, so they are replaced by new prompts. Departs from the paper: later batches are no larger
than needed, and a budget of batches limits the search.

The buffer implements TRL's steps_per_generation and num_iterations (GRPOTrainer._prepare_inputs): rollouts
for k steps are sampled at once. The steps train on the parts 1 … k in order, and again for each further
iteration. Departs from TRL: a group is never split, so one step trains on all of its completions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_cli.engine.grpo.advantages import decoupled_rewards
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.rewards.notes import Metrics, together
from grpo_cli.types import RolloutGroup


def is_informative(group: RolloutGroup, weights: Sequence[float] = ()) -> bool:
    """True if the group's rewards are not all equal, so that it has an advantage.

    `weights`: of the single rewards, if these are normalized before they are summed.
    """
    if weights:
        return any(decoupled_rewards([list(r.rewards.values()) for r in group.rollouts], weights))
    return len(set(group.scores)) > 1


@dataclass(kw_only=True)
class DrawnGroups:
    """The groups sampled for one generation, in the stream's order."""

    wanted: int  # groups that the generation needs
    position: int  # position of the next prompt in the stream
    groups: list[RolloutGroup] = field(default_factory=list)  # all groups drawn so far
    batches: int = 0
    tokens: int = 0
    seconds: float = 0.0  # time spent sampling
    metrics: dict[str, list[float]] = field(default_factory=dict)  # values that rewards gave to log_metric
    weights: Sequence[float] = ()  # of the single rewards, if these are normalized before they are summed

    def take(
        self,
        groups: list[RolloutGroup],
        seconds: float,
        metrics: Metrics | None = None,
        left_out: int = 0,
    ) -> None:
        """Add the groups of the next prompts. `left_out`: prompts skipped on the way, too long."""
        self.metrics = together([self.metrics, metrics or {}])
        self.groups += groups
        self.position += len(groups) + left_out
        self.batches += 1
        self.tokens += sum(rollout.length for group in groups for rollout in group.rollouts)
        self.seconds += seconds

    @property
    def informative(self) -> int:
        """Number of groups with an advantage."""
        return sum(is_informative(group, self.weights) for group in self.groups)

    @property
    def missing(self) -> int:
        """Informative groups still needed."""
        return max(0, self.wanted - self.informative)

    @property
    def next_count(self) -> int:
        """Number of prompts to draw next: missing / share of informative groups so far, at most `wanted`."""
        if not self.informative:
            return self.wanted
        return min(self.wanted, math.ceil(self.missing * len(self.groups) / self.informative))

    def chosen(self) -> list[RolloutGroup]:
        """The first `wanted` informative groups in the stream's order, filled up with other groups."""
        is_worse = [not is_informative(group, self.weights) for group in self.groups]
        by_worth = sorted(range(len(self.groups)), key=is_worse.__getitem__)
        return [self.groups[place] for place in sorted(by_worth[: self.wanted])]

    def numbers(self) -> dict[str, Any]:
        """Log metrics of dynamic sampling.

        reward_mean_drawn is the mean over all sampled completions. The mean over the chosen ones is biased to
        the middle, since groups that are all right or all wrong are discarded.
        """
        rewards = [reward for group in self.groups for reward in group.scores]
        return {
            "rollout_batches": self.batches,
            "groups_drawn": len(self.groups),
            "groups_discarded": max(0, len(self.groups) - self.wanted),
            "reward_mean_drawn": math.fsum(rewards) / len(rewards) if rewards else None,
        }


@dataclass
class Part:
    """The groups that one step trains on; the microbatches are made by the first such step."""

    groups: list[RolloutGroup]
    batches: list[Microbatch] | None = None


@dataclass
class RolloutBuffer:
    """The parts that the coming steps train on, the next one first."""

    size: int  # groups per step
    per_generation: int  # k: parts sampled at once
    iterations: int  # μ: updates on each part
    waiting: list[Part] = field(default_factory=list)

    def fill(self, groups: list[RolloutGroup]) -> None:
        """Split groups into parts: those of a new generation, or those restored from a checkpoint."""
        starts = range(0, len(groups), self.size)
        self.waiting = [Part(groups[start : start + self.size]) for start in starts]

    def advance(self, step: int) -> None:
        """Remove the first part after step `step` (from 1); put it last if further iterations follow."""
        part = self.waiting.pop(0)
        place = (step - 1) % (self.per_generation * self.iterations)
        if place < self.per_generation * (self.iterations - 1):
            self.waiting.append(part)

    @property
    def is_empty(self) -> bool:
        """True if new rollouts are needed."""
        return not self.waiting

    @property
    def groups(self) -> list[RolloutGroup]:
        """The groups still in the buffer, in order, for a checkpoint: `fill` restores the same parts."""
        return [group for part in self.waiting for group in part.groups]
