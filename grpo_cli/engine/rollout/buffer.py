"""Which groups a step learns from: drawn until enough of them can teach, and cut into the steps' parts.

    draw = DrawnGroups(wanted=8, position=40)               # prompts 40 … of the stream come next
    while draw.missing and draw.batches < budget:
        draw.take(sampled(draw.next_count), tokens)  # the first time 8, then as many as are likely to do
    parts.fill(draw.chosen())                        # 8 groups: 4 steps of 2

Dynamic sampling is DAPO's (Yu et al. 2025, arXiv:2503.14476, section 3.2): groups whose rewards are all
equal have no advantage, and new prompts are drawn in their place. Departs from the paper in that later
batches are no larger than needed, and that a budget ends the search.

Parts are TRL's steps_per_generation and num_iterations (GRPOTrainer._prepare_inputs): rollouts for k steps
are made at once; the steps take the parts 1 … k in order, and again for each further iteration. Departs
from TRL in that a group stays whole: its completions are learnt from in one step.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.rewards.notes import Metrics, together
from grpo_cli.types import RolloutGroup


def is_informative(group: RolloutGroup) -> bool:
    """Whether a group can teach: its rewards are not all equal."""
    return len(set(group.scores)) > 1


@dataclass(kw_only=True)
class DrawnGroups:
    """What was sampled for one generation, of prompts at `position` and after."""

    wanted: int  # groups that the generation needs
    position: int  # of the next prompt in the stream
    groups: list[RolloutGroup] = field(default_factory=list)  # all that were drawn, in the stream's order
    batches: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of sampling
    metrics: dict[str, list[float]] = field(default_factory=dict)  # what rewards gave to log_metric

    def take(
        self,
        groups: list[RolloutGroup],
        seconds: float,
        metrics: Metrics | None = None,
        left_out: int = 0,
    ) -> None:
        """Add a batch of groups, of the prompts that came next but for so many that were left out."""
        self.metrics = together([self.metrics, metrics or {}])
        self.groups += groups
        self.position += len(groups) + left_out
        self.batches += 1
        self.tokens += sum(rollout.length for group in groups for rollout in group.rollouts)
        self.seconds += seconds

    @property
    def informative(self) -> int:
        """Groups that can teach."""
        return sum(map(is_informative, self.groups))

    @property
    def missing(self) -> int:
        """Informative groups that are still wanted."""
        return max(0, self.wanted - self.informative)

    @property
    def next_count(self) -> int:
        """Prompts to draw next: missing / share of informative groups so far, at most `wanted`."""
        if not self.informative:
            return self.wanted
        return min(self.wanted, math.ceil(self.missing * len(self.groups) / self.informative))

    def chosen(self) -> list[RolloutGroup]:
        """The first `wanted` informative groups, filled up with the first others, in the stream's order."""
        by_worth = sorted(range(len(self.groups)), key=lambda place: not is_informative(self.groups[place]))
        return [self.groups[place] for place in sorted(by_worth[: self.wanted])]

    def numbers(self) -> dict[str, Any]:
        """For the log of dynamic sampling.

        reward_mean_drawn is that of all completions drawn: of those chosen it is drawn to the middle.
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
    """What one step learns from; the microbatches are made when it first does."""

    groups: list[RolloutGroup]
    batches: list[Microbatch] | None = None


@dataclass
class RolloutBuffer:
    """The parts that the coming steps learn from, the next one first."""

    size: int  # groups of a step
    per_generation: int  # k: parts that are made at once
    iterations: int  # μ: how often each is learnt from
    waiting: list[Part] = field(default_factory=list)

    def fill(self, groups: list[RolloutGroup]) -> None:
        """New parts, of a generation's groups or of what a checkpoint held."""
        starts = range(0, len(groups), self.size)
        self.waiting = [Part(groups[start : start + self.size]) for start in starts]

    def advance(self, step: int) -> None:
        """Step `step`, counted from 1, has learnt from the first part: it is done, or comes again."""
        part = self.waiting.pop(0)
        place = (step - 1) % (self.per_generation * self.iterations)
        if place < self.per_generation * (self.iterations - 1):
            self.waiting.append(part)

    @property
    def is_empty(self) -> bool:
        """Whether new completions are needed."""
        return not self.waiting

    @property
    def groups(self) -> list[RolloutGroup]:
        """What is still to be learnt from, in the order it will be: `fill` makes the same parts of it."""
        return [group for part in self.waiting for group in part.groups]
