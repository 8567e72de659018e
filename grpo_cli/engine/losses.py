"""The policy losses, each a pure function of logprobs, and how token losses are averaged.

A loss type is two choices, in the table LOSSES at the end: the loss of one token, and the weight
that token has in the step's loss. The weights of a whole step are fixed before it is cut into
microbatches, so the sum over microbatches is the loss of the whole batch whatever their size.

    dapo, completions of 2 and 3 tokens: every token weighs 1/5
    grpo:  the first one's tokens weigh 1/2 · 1/2, the second one's 1/2 · 1/3

To add a loss, write its token loss (or its weights) here and give it a line in the table.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class TokenLoss:
    """Loss of every token before weighting, and which ratios were clipped."""

    loss: mx.array  # (B, T)
    clipped: mx.array  # (B, T) bool


def clipped_surrogate(
    logprobs: mx.array, old_logprobs: mx.array, advantages: mx.array, clip_low: float, clip_high: float
) -> TokenLoss:
    """−min(r·A, clip(r, 1 − clip_low, 1 + clip_high)·A) with r = exp(logp − old_logp).

    PPO's objective by token (Schulman et al. 2017, arXiv:1707.06347, eq. 7). Shapes: logprobs and
    old_logprobs (B, T), advantages (B, 1). A token counts as clipped where the clip cuts its gradient.
    """
    ratio = mx.exp(logprobs - old_logprobs)  # (B, T)
    bounded = mx.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    clipped = bounded * advantages < ratio * advantages
    return TokenLoss(-mx.minimum(ratio * advantages, bounded * advantages), clipped)


def policy_gradient(
    logprobs: mx.array, old_logprobs: mx.array, advantages: mx.array, clip_low: float, clip_high: float
) -> TokenLoss:
    """−logp·A: REINFORCE as nanochat's scripts/chat_rl.py has it, on policy, without ratio or clip."""
    del old_logprobs, clip_low, clip_high
    return TokenLoss(-logprobs * advantages, mx.zeros(logprobs.shape, dtype=mx.bool_))


def k3_divergence(logprobs: mx.array, ref_logprobs: mx.array) -> mx.array:
    """KL(policy ‖ reference) by token: exp(ref − logp) − (ref − logp) − 1, never negative.

    The k3 estimator (Schulman 2020, "Approximating KL Divergence"); GRPO's eq. 4. Shapes (B, T).
    """
    difference = ref_logprobs - logprobs
    return mx.exp(difference) - difference - 1.0


# --- averaging: the weight of every token of a completion, from all completions' lengths of the step ---


def by_sequence(lengths: list[int], max_new_tokens: int) -> list[float]:
    """Mean over sequences of the token mean (GRPO, arXiv:2402.03300, eq. 3)."""
    del max_new_tokens
    return [1.0 / (len(lengths) * length) for length in lengths]


def by_token(lengths: list[int], max_new_tokens: int) -> list[float]:
    """Sum over all completion tokens of the step, divided by their number (DAPO, arXiv:2503.14476, eq. 8)."""
    del max_new_tokens
    return [1.0 / sum(lengths)] * len(lengths)


def by_budget(lengths: list[int], max_new_tokens: int) -> list[float]:
    """Sum divided by B · max_new_tokens: no bias by length (Dr. GRPO, arXiv:2503.20783, section 3.2)."""
    return [1.0 / (len(lengths) * max_new_tokens)] * len(lengths)


@dataclass(frozen=True)
class LossType:
    """What the configuration's `loss_type` means."""

    token_loss: Callable[[mx.array, mx.array, mx.array, float, float], TokenLoss]
    weights: Callable[[list[int], int], list[float]]
    scales_rewards: bool = True  # whether scale_rewards applies


LOSSES = {
    "grpo": LossType(clipped_surrogate, by_sequence),
    "dapo": LossType(clipped_surrogate, by_token),
    "dr_grpo": LossType(clipped_surrogate, by_budget),
    "reinforce": LossType(policy_gradient, by_token, scales_rewards=False),
}
