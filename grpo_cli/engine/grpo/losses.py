"""The policy losses, each a pure function of logprobs.

A loss type (config/loss_types.py) combines two choices: the loss of one token, and the weight of that token
in the step's loss (averaging.py).

    dapo:  clipped_surrogate, averaged by_token
    gspo:  clipped_surrogate with one ratio per completion, averaged by_sequence

All of them are policy gradients: they raise the logprob of tokens with a positive advantage and lower it for
a negative one. The importance ratio r = π/π_old compares the current policy with the one that sampled the
token. It is 1 in the first update on a batch of rollouts, and moves away from 1 in further updates. Clipping
it bounds how far one batch can move the policy.

To add a loss type, give it a line in config/loss_types.py; a new token loss is written and listed here. The
ratio is passed as its logarithm: (B, T) per token, or (B, 1) per sequence (`sequence_log_ratio`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from grpo_cli.config.loss_types import LOSS_TYPES


@dataclass(frozen=True)
class Clip:
    """Bounds of the ratio r = π/π_old."""

    low: float  # r below 1 − low is clipped if the advantage is negative
    high: float  # r above 1 + high is clipped if the advantage is positive
    delta: float = 0.0  # > 1 + high; r above is clipped if the advantage is negative; 0: no such bound


@dataclass(frozen=True)
class TokenLoss:
    """Loss of each token before weighting, and the tokens clipped. (B, 1) if a sequence has one ratio."""

    loss: mx.array  # (B, T)
    clipped: mx.array  # (B, T) bool, clipped by any of the bounds
    low: mx.array  # (B, T) bool, clipped by 1 − low, with a negative advantage
    high: mx.array  # (B, T) bool, clipped by 1 + high, with a positive advantage


def sequence_log_ratio(log_ratio: mx.array, mask: mx.array) -> mx.array:
    """Log ratio of whole completions: the mean of the log ratios (B, T) over the tokens in `mask`, (B, 1).

    This is log s_i of GSPO (arXiv:2507.18071, eq. 7): s_i = (π(y)/π_old(y))^(1/|y|). Differentiable.
    """
    return (log_ratio * mask).sum(axis=-1, keepdims=True) / mx.maximum(mask.sum(axis=-1, keepdims=True), 1)


def clipped_surrogate(logprobs: mx.array, log_ratio: mx.array, advantages: mx.array, clip: Clip) -> TokenLoss:
    """−min(min(r, delta)·A, clip(r, 1 − low, 1 + high)·A).

    PPO's clipped objective (Schulman et al. 2017, arXiv:1707.06347, eq. 7); with one ratio per sequence,
    GSPO's (arXiv:2507.18071, eq. 5). Once r is past the bound in the direction of the advantage, the gradient
    is 0. `delta` bounds the loss of a token that became much likelier despite a negative advantage
    (INTELLECT-2, arXiv:2505.07291, section 3.4; TRL's `delta`). A token counts as clipped if a bound sets its
    gradient to 0. Shapes: logprobs (B, T), log_ratio (B, T) or (B, 1), advantages (B, 1).
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
    """CISPO: −sg(min(r, 1 + high))·A·logp. No token loses its gradient, but its weight is bounded.

    Source: MiniMax-M1, arXiv:2506.13585, eq. 4 and 5, without a lower bound, as there and in TRL; sg stops
    the gradient. TRL's `epsilon_high` is the bound itself, 1 + high here. Shapes as in `clipped_surrogate`.
    """
    ratio = mx.exp(log_ratio)
    cut = ratio > 1.0 + clip.high
    weight = mx.stop_gradient(mx.minimum(ratio, 1.0 + clip.high))
    high = cut & (advantages > 0)
    return TokenLoss(-weight * advantages * logprobs, cut, mx.zeros_like(high), high)


def policy_gradient(logprobs: mx.array, log_ratio: mx.array, advantages: mx.array, clip: Clip) -> TokenLoss:
    """−logp·A: REINFORCE as in nanochat's scripts/chat_rl.py, on policy, without ratio or clipping."""
    del log_ratio, clip
    never = mx.zeros(logprobs.shape, dtype=mx.bool_)
    return TokenLoss(-logprobs * advantages, never, never, never)


TOKEN_LOSSES: dict[str, Callable[[mx.array, mx.array, mx.array, Clip], TokenLoss]] = {
    loss.__name__: loss for loss in (clipped_surrogate, weighted_policy_gradient, policy_gradient)
}


def token_loss_of(loss_type: str) -> Callable[[mx.array, mx.array, mx.array, Clip], TokenLoss]:
    """The token loss of a value of the key `loss_type`."""
    return TOKEN_LOSSES[LOSS_TYPES[loss_type].token_loss]
