"""Rollouts to arrays: the microbatches of one optimizer step.

Rows are prompt + completion, right-padded. Only the columns from the first completion token on
(S of the T) carry a loss. For prompts "ab" and "c" with completions "XY" and "Z":

    input_ids  a b X    targets  · X Y    completion_mask  0 1 1
               c 0 0             Z · ·                      1 0 0

Weights are those of the whole step, so how it is cut into microbatches changes no gradient.
"""

from dataclasses import dataclass

import mlx.core as mx

from grpo_cli.engine.losses import LossType
from grpo_cli.types import Rollout, RolloutGroup


@dataclass
class Microbatch:
    """The sequences of one forward and backward. B rows, T inputs, the last S of them with a loss."""

    input_ids: mx.array  # (B, T) int32, prompt and completion without its last token
    targets: mx.array  # (B, S) int32, the token that follows each of the last S inputs
    completion_mask: mx.array  # (B, S) bool, true where the target is a completion's
    old_logprobs: mx.array  # (B, S) float32, as sampled
    advantages: mx.array  # (B, 1) float32
    weights: mx.array  # (B, 1) float32, of each token of the row in the step's loss
    ref_logprobs: mx.array | None = None  # (B, S) float32, where there is a reference

    @property
    def token_count(self) -> int:
        """Completion tokens."""
        return int(self.completion_mask.sum())


@dataclass(frozen=True)
class Sequence:
    """One rollout with what the loss needs to know of its step."""

    prompt_ids: list[int]
    rollout: Rollout
    weight: float

    @property
    def length(self) -> int:
        """Prompt and completion tokens."""
        return len(self.prompt_ids) + len(self.rollout.token_ids)


def make_microbatches(
    groups: list[RolloutGroup], loss_type: LossType, max_new_tokens: int, size: int, has_reference: bool
) -> list[Microbatch]:
    """Cut a step's rollouts into microbatches of at most `size` sequences, alike in length.

    Completions of advantage 0 have no gradient unless a KL term gives them one: without a reference
    they are left out, after they counted for the weights.
    """
    pairs = [(group.prompt_ids, rollout) for group in groups for rollout in group.rollouts]
    weights = loss_type.weights([len(rollout.token_ids) for _, rollout in pairs], max_new_tokens)
    sequences = [
        Sequence(prompt_ids, rollout, weight)
        for (prompt_ids, rollout), weight in zip(pairs, weights, strict=True)
        if has_reference or rollout.advantage != 0.0
    ]
    sequences.sort(key=lambda sequence: sequence.length)  # stable: the same cut every time
    return [pad(sequences[start : start + size]) for start in range(0, len(sequences), size)]


def pad(sequences: list[Sequence]) -> Microbatch:
    """Right-pad sequences to arrays. Padding is never looked at: attention is causal, the loss masked."""
    first_target = min(len(sequence.prompt_ids) for sequence in sequences)
    end = max(sequence.length for sequence in sequences)
    input_ids, targets, mask, old_logprobs = [], [], [], []
    for sequence in sequences:
        completion = sequence.rollout.token_ids
        before, after = len(sequence.prompt_ids) - first_target, end - sequence.length
        input_ids.append((sequence.prompt_ids + completion + [0] * after)[:-1])
        targets.append([0] * before + completion + [0] * after)
        mask.append([False] * before + [True] * len(completion) + [False] * after)
        old_logprobs.append([0.0] * before + sequence.rollout.logprobs + [0.0] * after)
    return Microbatch(
        mx.array(input_ids, dtype=mx.int32),
        mx.array(targets, dtype=mx.int32),
        mx.array(mask),
        mx.array(old_logprobs, dtype=mx.float32),
        mx.array([[sequence.rollout.advantage] for sequence in sequences], dtype=mx.float32),
        mx.array([[sequence.weight] for sequence in sequences], dtype=mx.float32),
    )
