"""Rollouts to arrays: the microbatches of one optimizer step.

A microbatch holds whole groups, so that each prompt is computed once for all of its completions. Under a
budget of tokens it holds completions of similar lengths instead (packing.py). For prompts "ab" and "c" with
completions "XY" of the first and "Z" of the second:

    prompts  [ab, c]    rows  0    inputs  b X    targets  X Y    loss_mask  1 1
                              1            c ·             Z ·                     1 0

Token weights are computed over the whole step, so splitting it into microbatches changes no gradient.

The source of the old logprobs depends on the configuration:
- Each rollout serves one update: the sampler's.
- Each rollout serves several updates: those of the first update's own forward, as in TRL, so that its ratio
  is exactly 1. `old_is_current` is true until `remember` has stored them.
- steps_per_generation > 1: the sampler's, since the policy has changed before a later part's first update.
- A quantized copy sampled: the policy's own. The first part takes them from its first update, later parts
  from a forward right after sampling (update_policy.py). The sampler's are kept in addition, for the
  correction (importance_sampling.py).
- An environment answered turns: as after a quantized copy. Rows leave and enter the batch when an answer
  comes, and the sampler's logprobs depend on their batch in the last bits. A step must not depend on time,
  since a resumed run makes it again.
"""

from dataclasses import dataclass, field
from itertools import chain

import mlx.core as mx

from grpo_cli.config.loss_types import LossType
from grpo_cli.config.schema import Config
from grpo_cli.engine.grpo.averaging import AVERAGES
from grpo_cli.engine.grpo.entropy import high_entropy_threshold
from grpo_cli.engine.update.packing import Budget, pack
from grpo_cli.types import Rollout, RolloutGroup, StopReason


@dataclass(kw_only=True)
class Microbatch:
    """The completions of one forward and backward: B rows of S tokens, right-padded."""

    prompts: list[list[int]]  # the distinct prompts, each with its own length
    rows: list[int]  # (B,) index of each row's prompt
    targets: mx.array  # (B, S) int32, the completions' tokens
    loss_mask: mx.array  # (B, S) bool, false on padding and on tokens that an environment wrote
    old_logprobs: mx.array  # (B, S) float32, of the policy before the first update on these rows
    advantages: mx.array  # (B, 1) float32
    weights: mx.array  # (B, 1) float32, weight of each token of the row in the step's loss
    ref_logprobs: mx.array | None = None  # (B, S) float32; None without a reference
    policy_mask: mx.array | None = None  # (B, S) bool, tokens with a policy loss; None: all
    rollouts: list[Rollout] = field(default_factory=list)  # (B,) the rollout of each row
    old_is_current: bool = False  # the next forward provides the old logprobs
    # (B, S) float32, of the quantized copy that sampled, for importance sampling; None: the policy sampled
    sampler_logprobs: mx.array | None = None
    # (B, 1) float32, the coefficient of an adaptive entropy bonus; None: the configured one
    entropy_coeffs: mx.array | None = None
    rank: int = 0  # the rank that computes it

    @property
    def inputs(self) -> mx.array:
        """The token before each target: the prompt's last one, then the completion's. (B, S)"""
        last = mx.array([[self.prompts[row][-1]] for row in self.rows], dtype=mx.int32)
        return mx.concatenate([last, self.targets[:, :-1]], axis=1)

    @property
    def token_count(self) -> int:
        """Number of trained tokens."""
        return int(self.loss_mask.sum())

    def in_rows(self, most: int | None) -> "list[Microbatch]":
        """The microbatch in parts of at most `most` rows; None = no limit."""
        if most is None or len(self.rows) <= most:
            return [self]
        starts = range(0, len(self.rows), most)
        return [self.part(start, min(start + most, len(self.rows))) for start in starts]

    def remember(self, logprobs: mx.array) -> None:
        """Store logprobs (B, S) as the old logprobs, here and in the rollouts."""
        self.old_logprobs, self.old_is_current = logprobs, False
        rows: list[list[float]] = logprobs.tolist()  # type: ignore[assignment]
        for rollout, row in zip(self.rollouts, rows, strict=True):
            rollout.old_logprobs = row[: len(rollout.token_ids)]

    def part(self, start: int, end: int) -> "Microbatch":
        """The rows `start` to `end` − 1, with their prompts."""
        kept = sorted(set(self.rows[start:end]))
        reference, policy, sampler = self.ref_logprobs, self.policy_mask, self.sampler_logprobs
        bonus = self.entropy_coeffs
        return Microbatch(
            prompts=[self.prompts[row] for row in kept],
            rows=[kept.index(row) for row in self.rows[start:end]],
            targets=self.targets[start:end],
            loss_mask=self.loss_mask[start:end],
            old_logprobs=self.old_logprobs[start:end],
            advantages=self.advantages[start:end],
            weights=self.weights[start:end],
            ref_logprobs=None if reference is None else reference[start:end],
            policy_mask=None if policy is None else policy[start:end],
            rollouts=self.rollouts[start:end],
            old_is_current=self.old_is_current,
            sampler_logprobs=None if sampler is None else sampler[start:end],
            entropy_coeffs=None if bonus is None else bonus[start:end],
            rank=self.rank,
        )


@dataclass(frozen=True, kw_only=True)
class Counting:
    """The configured selection of tokens that enter the loss."""

    prompts_per_forward: int = 0  # prompts that bnpo averages over at once (batch_size); 0: a microbatch's
    mask_truncated: bool = False  # truncated completions are excluded
    top_entropy_quantile: float = 1.0  # share of the tokens, by entropy, that have a policy loss
    has_bonus: bool = False  # an entropy bonus gives every token a gradient
    refilters: bool = False  # the filter by entropy is renewed before later updates, from all completions
    recompute_old: bool = False  # the old logprobs are the first update's, not the sampler's
    has_other_sampler: bool = False  # a quantized copy sampled

    @staticmethod
    def of(config: Config) -> "Counting":
        """The selection that a configuration asks for."""
        return Counting(
            prompts_per_forward=config.batch_size,
            mask_truncated=config.mask_truncated_completions,
            top_entropy_quantile=config.top_entropy_quantile,
            has_bonus=config.has_entropy_bonus,
            refilters=config.filters_by_current_entropy,
            recompute_old=config.quantize_for_rollouts
            or (config.num_iterations > 1 and config.steps_per_generation == 1),
            has_other_sampler=config.quantize_for_rollouts,
        )

    def length(self, rollout: Rollout) -> int:
        """Number of tokens of a completion that enter the loss."""
        masked = self.mask_truncated and rollout.stop_reason is StopReason.LENGTH
        return 0 if masked else rollout.length

    def entropy_threshold(self, groups: list[RolloutGroup]) -> float | None:
        """Least entropy, in nats, of a token with a policy loss in this step; None = no threshold."""
        if self.top_entropy_quantile >= 1.0:
            return None
        counting = [rollout for group in groups for rollout in group.rollouts if self.length(rollout)]
        entropies = [entropy for rollout in counting for entropy in rollout.trained(rollout.entropies)]
        return high_entropy_threshold(entropies, self.top_entropy_quantile)


def can_teach(groups: list[RolloutGroup], config: Config) -> bool:
    """True if any completion that enters the loss has a non-zero advantage."""
    counting = Counting.of(config)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return any(rollout.advantage != 0.0 and counting.length(rollout) for rollout in rollouts)


@dataclass(frozen=True)
class TrainingSequence:
    """One rollout with its prompt, its token weight and the step's entropy threshold."""

    prompt_ids: list[int]
    rollout: Rollout
    weight: float
    entropy_threshold: float | None = None  # nats; tokens below it have no policy loss

    @property
    def length(self) -> int:
        """T, the tokens of the completion, trained or not."""
        return len(self.rollout.token_ids)

    @property
    def policy_mask(self) -> list[bool]:
        """True for each token with a policy loss: (T,)."""
        threshold, rollout = self.entropy_threshold, self.rollout
        return [
            bool(is_trained) and (threshold is None or entropy >= threshold)
            for entropy, is_trained in zip(rollout.entropies, rollout.loss_mask, strict=True)
        ]

    def has_gradient(self, everywhere: bool) -> bool:
        """True if the sequence has a gradient. `everywhere`: KL or entropy bonus give every token one."""
        learns = everywhere or (self.rollout.advantage != 0.0 and any(self.policy_mask))
        return self.weight > 0.0 and learns


def make_microbatches(
    groups: list[RolloutGroup],
    loss_type: LossType,
    max_new_tokens: int,
    size: int,
    has_reference: bool,
    counting: Counting | None = None,
    budget: Budget | None = None,
) -> list[Microbatch]:
    """Split a step's rollouts into microbatches of `size` groups, or under a `budget` of tokens.

    Completions without a gradient are left out, after the token weights were computed over all: those of
    advantage 0, unless a KL term or an entropy bonus gives them a gradient, and those excluded by `counting`.
    """
    counting = counting or Counting()
    weights = iter(AVERAGES[loss_type.averaging](counted_lengths(groups, counting, size), max_new_tokens))
    threshold = counting.entropy_threshold(groups)
    by_group = [
        [TrainingSequence(g.prompt_ids, rollout, next(weights), threshold) for rollout in g.rollouts]
        for g in groups
    ]
    everywhere = has_reference or counting.has_bonus
    if counting.refilters:  # completions of advantage 0 count in the threshold, if there is an update at all
        everywhere = everywhere or any(s.has_gradient(False) for group in by_group for s in group)
    kept = [[sequence for sequence in group if sequence.has_gradient(everywhere)] for group in by_group]
    if budget is not None:
        chunks = pack(kept, budget)
    else:
        chunks = [list(chain(*kept[start : start + size])) for start in range(0, len(kept), size)]
    return [pad(chunk, counting.recompute_old, counting.has_other_sampler) for chunk in chunks if chunk]


def counted_lengths(groups: list[RolloutGroup], counting: Counting, size: int) -> list[list[int]]:
    """Counted tokens of every completion of a step: one list per forward of batch_size prompts."""
    prompts = counting.prompts_per_forward or size
    return [
        [counting.length(rollout) for group in groups[start : start + prompts] for rollout in group.rollouts]
        for start in range(0, len(groups), prompts)
    ]


def pad(
    sequences: list[TrainingSequence], recompute_old: bool = False, has_other_sampler: bool = False
) -> Microbatch:
    """Right-pad sequences to one microbatch. Padding has no effect: attention is causal, the loss masked.

    `recompute_old`: the first update's forward provides the old logprobs, unless it was already made.
    `has_other_sampler`: a quantized copy sampled, so its logprobs are kept in addition.
    """
    prompts, rows = distinct_prompts(sequences)
    width = max(len(sequence.rollout.token_ids) for sequence in sequences)

    def padded(values: list[float] | list[int] | list[bool]) -> list[float] | list[int] | list[bool]:
        return values + [0] * (width - len(values))

    rollouts = [sequence.rollout for sequence in sequences]
    filtered = any(sequence.entropy_threshold is not None for sequence in sequences)
    return Microbatch(
        prompts=prompts,
        rows=rows,
        targets=mx.array([padded(rollout.token_ids) for rollout in rollouts], dtype=mx.int32),
        loss_mask=mx.array([padded(rollout.loss_mask) for rollout in rollouts]).astype(mx.bool_),
        old_logprobs=mx.array(
            [padded(rollout.old_logprobs or rollout.logprobs) for rollout in rollouts], dtype=mx.float32
        ),
        advantages=mx.array([[rollout.advantage] for rollout in rollouts], dtype=mx.float32),
        weights=mx.array([[sequence.weight] for sequence in sequences], dtype=mx.float32),
        policy_mask=mx.array([padded(s.policy_mask) for s in sequences]).astype(mx.bool_)
        if filtered
        else None,
        rollouts=rollouts,
        old_is_current=(recompute_old or any(rollout.logprobs_depend_on_time for rollout in rollouts))
        and not any(rollout.old_logprobs for rollout in rollouts),
        sampler_logprobs=mx.array([padded(rollout.logprobs) for rollout in rollouts], dtype=mx.float32)
        if has_other_sampler
        else None,
    )


def distinct_prompts(sequences: list[TrainingSequence]) -> tuple[list[list[int]], list[int]]:
    """The different prompts of the sequences, in order, and each sequence's index into them."""
    prompts: list[list[int]] = []
    rows = []
    for sequence in sequences:
        if sequence.prompt_ids not in prompts:
            prompts.append(sequence.prompt_ids)
        rows.append(prompts.index(sequence.prompt_ids))
    return prompts, rows
