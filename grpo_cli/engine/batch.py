"""Rollouts to arrays: the microbatches of one optimizer step.

A microbatch holds whole groups, so that each prompt is read once for all of its completions. For
prompts "ab" and "c" with completions "XY" of the first and "Z" of the second:

    prompts  [ab, c]    rows  0    inputs  b X    targets  X Y    completion_mask  1 1
                              1            c ·             Z ·                     1 0

Weights are those of the whole step, so how it is cut into microbatches changes no gradient.
"""

from dataclasses import dataclass

import mlx.core as mx

from grpo_cli.engine.losses import LossType
from grpo_cli.types import Rollout, RolloutGroup


@dataclass
class Microbatch:
    """The completions of one forward and backward: B rows of S tokens, right-padded."""

    prompts: list[list[int]]  # the distinct prompts, each with its own length
    rows: list[int]  # (B,) which prompt each row continues
    targets: mx.array  # (B, S) int32, the completions' tokens
    completion_mask: mx.array  # (B, S) bool, false on padding
    old_logprobs: mx.array  # (B, S) float32, as sampled
    advantages: mx.array  # (B, 1) float32
    weights: mx.array  # (B, 1) float32, of each token of the row in the step's loss
    ref_logprobs: mx.array | None = None  # (B, S) float32, where there is a reference

    @property
    def inputs(self) -> mx.array:
        """The token before each target: the prompt's last one, then the completion's. (B, S)"""
        last = mx.array([[self.prompts[row][-1]] for row in self.rows], dtype=mx.int32)
        return mx.concatenate([last, self.targets[:, :-1]], axis=1)

    @property
    def token_count(self) -> int:
        """Completion tokens."""
        return int(self.completion_mask.sum())

    def in_rows(self, most: int | None) -> "list[Microbatch]":
        """The batch in parts of at most so many rows; None: as it is."""
        if most is None or len(self.rows) <= most:
            return [self]
        starts = range(0, len(self.rows), most)
        return [self.part(start, min(start + most, len(self.rows))) for start in starts]

    def halves(self) -> "tuple[Microbatch, Microbatch] | None":
        """The first and the second half of the rows; None for a single row."""
        middle = len(self.rows) // 2
        return (self.part(0, middle), self.part(middle, len(self.rows))) if middle else None

    def part(self, start: int, end: int) -> "Microbatch":
        """Some of the rows, with the prompts that they continue."""
        kept = sorted(set(self.rows[start:end]))
        reference = self.ref_logprobs
        return Microbatch(
            [self.prompts[row] for row in kept],
            [kept.index(row) for row in self.rows[start:end]],
            self.targets[start:end],
            self.completion_mask[start:end],
            self.old_logprobs[start:end],
            self.advantages[start:end],
            self.weights[start:end],
            None if reference is None else reference[start:end],
        )


@dataclass(frozen=True)
class Sequence:
    """One rollout with what the loss needs to know of its step."""

    prompt_ids: list[int]
    rollout: Rollout
    weight: float


def make_microbatches(
    groups: list[RolloutGroup], loss_type: LossType, max_new_tokens: int, size: int, has_reference: bool
) -> list[Microbatch]:
    """Cut a step's rollouts into microbatches of `size` groups.

    Completions of advantage 0 have no gradient unless a KL term gives them one: without a reference
    they are left out, after they counted for the weights.
    """
    lengths = [len(rollout.token_ids) for group in groups for rollout in group.rollouts]
    weights = iter(loss_type.weights(lengths, max_new_tokens))
    by_group = [[Sequence(g.prompt_ids, rollout, next(weights)) for rollout in g.rollouts] for g in groups]
    batches = []
    for start in range(0, len(by_group), size):
        chunk = [sequence for group in by_group[start : start + size] for sequence in group]
        kept = [sequence for sequence in chunk if has_reference or sequence.rollout.advantage != 0.0]
        if kept:
            batches.append(pad(kept))
    return batches


def pad(sequences: list[Sequence]) -> Microbatch:
    """Arrays of some sequences. Padding is never looked at: attention is causal, the loss masked."""
    prompts: list[list[int]] = []
    rows = []
    for sequence in sequences:
        if sequence.prompt_ids not in prompts:
            prompts.append(sequence.prompt_ids)
        rows.append(prompts.index(sequence.prompt_ids))
    width = max(len(sequence.rollout.token_ids) for sequence in sequences)

    def padded(values: list[float] | list[int]) -> list[float] | list[int]:
        return values + [0] * (width - len(values))

    rollouts = [sequence.rollout for sequence in sequences]
    return Microbatch(
        prompts,
        rows,
        mx.array([padded(rollout.token_ids) for rollout in rollouts], dtype=mx.int32),
        mx.array([padded([1] * len(rollout.token_ids)) for rollout in rollouts]).astype(mx.bool_),
        mx.array([padded(rollout.logprobs) for rollout in rollouts], dtype=mx.float32),
        mx.array([[rollout.advantage] for rollout in rollouts], dtype=mx.float32),
        mx.array([[sequence.weight] for sequence in sequences], dtype=mx.float32),
    )
