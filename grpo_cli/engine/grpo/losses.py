"""The policy losses, each a pure function of logprobs.

A loss type is two choices, in the table LOSSES at the end: the loss of one token, and the weight
that token has in the step's loss (averaging.py).

    dapo:  clipped_surrogate, averaged by_token
    gspo:  the same with one ratio for a whole completion, averaged by_sequence

To add a loss, write its token loss (or its weights) and give it a line in the table. The ratio
r = π/π_old comes in as its logarithm: (B, T) by token, or (B, 1) by sequence (`sequence_log_ratio`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from grpo_cli.engine.grpo.averaging import TokenWeights, by_budget, by_forward, by_sequence, by_token


@dataclass(frozen=True)
class Clip:
    """Where ratios are cut."""

    low: float  # below 1 − low, where the advantage is negative
    high: float  # above 1 + high, where it is positive
    delta: float = 0.0  # above delta, where it is negative; 0: not at all


@dataclass(frozen=True)
class TokenLoss:
    """Loss of every token before weighting, and which ratios were cut; (B, 1) is that of all of a row."""

    loss: mx.array  # (B, T)
    clipped: mx.array  # (B, T) bool, for whatever reason
    low: mx.array  # (B, T) bool, below with a negative advantage
    high: mx.array  # (B, T) bool, above with a positive advantage


def sequence_log_ratio(log_ratio: mx.array, mask: mx.array) -> mx.array:
    """Mean of the log ratios (B, T) over each row's own tokens: (B, 1), differentiable.

    log s_i of GSPO (arXiv:2507.18071, eq. 7): s_i = (π(y)/π_old(y))^(1/|y|).
    """
    return (log_ratio * mask).sum(axis=-1, keepdims=True) / mx.maximum(mask.sum(axis=-1, keepdims=True), 1)


def clipped_surrogate(logprobs: mx.array, log_ratio: mx.array, advantages: mx.array, clip: Clip) -> TokenLoss:
    """−min(min(r, delta)·A, clip(r, 1 − low, 1 + high)·A).

    PPO's objective by token (Schulman et al. 2017, arXiv:1707.06347, eq. 7), of GSPO by sequence
    (arXiv:2507.18071, eq. 5). `delta` bounds what a negative advantage can do to a token that became
    likelier (INTELLECT-2, arXiv:2505.07291, section 3.4; TRL's `delta`). Shapes: logprobs (B, T), log_ratio
    (B, T) or (B, 1), advantages (B, 1). A token counts as clipped where a clip cuts its gradient.
    """
    del logprobs
    ratio = mx.exp(log_ratio)
    bounded = mx.clip(ratio, 1.0 - clip.low, 1.0 + clip.high)
    cut = bounded * advantages < ratio * advantages
    low, high = cut & (advantages < 0), cut & (advantages > 0)
    if clip.delta:
        cut = cut | ((ratio > clip.delta) & (advantages < 0))
        ratio = mx.minimum(ratio, clip.delta)
    return TokenLoss(-mx.minimum(ratio * advantages, bounded * advantages), cut, low, high)


def weighted_policy_gradient(
    logprobs: mx.array, log_ratio: mx.array, advantages: mx.array, clip: Clip
) -> TokenLoss:
    """−sg(min(r, 1 + high))·A·logp: every token keeps a gradient, with a bounded weight.

    CISPO (MiniMax-M1, arXiv:2506.13585, eq. 4 and 5; without a lower bound, as there and in TRL). TRL's
    `epsilon_high` is the bound itself, 1 + high here. Shapes as in `clipped_surrogate`.
    """
    ratio = mx.exp(log_ratio)
    cut = ratio > 1.0 + clip.high
    weight = mx.stop_gradient(mx.minimum(ratio, 1.0 + clip.high))
    high = cut & (advantages > 0)
    return TokenLoss(-weight * advantages * logprobs, cut, mx.zeros_like(high), high)


def policy_gradient(logprobs: mx.array, log_ratio: mx.array, advantages: mx.array, clip: Clip) -> TokenLoss:
    """−logp·A: REINFORCE as nanochat's scripts/chat_rl.py has it, on policy, without ratio or clip."""
    del log_ratio, clip
    never = mx.zeros(logprobs.shape, dtype=mx.bool_)
    return TokenLoss(-logprobs * advantages, never, never, never)


@dataclass(frozen=True)
class LossType:
    """What the configuration's `loss_type` means."""

    token_loss: Callable[[mx.array, mx.array, mx.array, Clip], TokenLoss]
    weights: TokenWeights
    scales_rewards: bool = True  # whether scale_rewards applies
    by_sequence: bool = False  # whether the ratio is the sequence's whatever importance_sampling_level says


LOSSES = {
    "grpo": LossType(clipped_surrogate, by_sequence),
    "bnpo": LossType(clipped_surrogate, by_forward),
    "dapo": LossType(clipped_surrogate, by_token),
    "dr_grpo": LossType(clipped_surrogate, by_budget),
    "cispo": LossType(weighted_policy_gradient, by_token),
    "gspo": LossType(clipped_surrogate, by_sequence, by_sequence=True),
    "reinforce": LossType(policy_gradient, by_token, scales_rewards=False),
}
