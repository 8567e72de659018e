"""The policy losses, each a pure function of logprobs.

A loss type (config/loss_types.py) combines two choices: the loss of one token, and the weight of that token
in the step's loss (averaging.py).

    dapo:  clipped_surrogate, averaged by_token
    gspo:  clipped_surrogate with one ratio per completion, averaged by_sequence

All of them are policy gradients: they raise the logprob of tokens with a positive advantage and lower it for
a negative one. The importance ratio r = π/π_old compares the current policy with the one that sampled the
token. It is 1 in the first update on a batch of rollouts, and moves away from 1 in further updates. Clipping
it bounds how far one batch can move the policy.

To add a loss type, give it a line in config/loss_types.py; a new token loss is written and listed here. It
takes the tokens and the configuration, of which it reads the keys of LossKeys.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from grpo_cli.config.keys_of_the_loss import LossKeys
from grpo_cli.config.loss_types import LOSS_TYPES

MOST = 20.0  # bound of a log ratio above, and of a token's below, in VESPO
LEAST = math.log(1e-8)  # bound of a sequence's log ratio below, in VESPO


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of a microbatch. `log_ratio` is log π/π_old by token or by sequence, as configured."""

    logprobs: mx.array  # (B, T)
    log_ratio: mx.array  # (B, T), or (B, 1) from `sequence_log_ratio`
    token_log_ratio: mx.array  # (B, T)
    advantages: mx.array  # (B, 1)
    mask: mx.array  # (B, T) bool, the trained tokens
    policy_mask: mx.array | None = None  # (B, T) bool, the tokens with a policy loss; None: all
    log_weights: mx.array | None = None  # (B, T) log π_old/π_rollout after its bounds; None: the same policy


@dataclass(frozen=True)
class Clip:
    """Bounds of the ratio r = π/π_old."""

    low: float  # r below 1 − low is clipped if the advantage is negative
    high: float  # r above 1 + high is clipped if the advantage is positive
    delta: float = 0.0  # > 1 + high; r above is clipped if the advantage is negative; 0: no such bound

    @staticmethod
    def of(keys: LossKeys) -> "Clip":
        """The configured bounds; clip_eps_high = 0 means clip_eps on both sides."""
        return Clip(keys.clip_eps, keys.clip_eps_high or keys.clip_eps, keys.delta)


@dataclass(frozen=True)
class TokenLoss:
    """Loss of each token before weighting, and the tokens clipped. (B, 1) if a sequence has one ratio."""

    loss: mx.array  # (B, T)
    clipped: mx.array  # (B, T) bool, clipped by any of the bounds
    low: mx.array  # (B, T) bool, clipped by 1 − low, with a negative advantage
    high: mx.array  # (B, T) bool, clipped by 1 + high, with a positive advantage

    @staticmethod
    def unclipped(loss: mx.array) -> "TokenLoss":
        """The loss (B, T) or (B, 1) of tokens none of which is clipped."""
        never = mx.zeros(loss.shape, dtype=mx.bool_)
        return TokenLoss(loss, never, never, never)


def sequence_log_ratio(log_ratio: mx.array, mask: mx.array) -> mx.array:
    """Log ratio of whole completions: the mean of the log ratios (B, T) over the tokens in `mask`, (B, 1).

    This is log s_i of GSPO (arXiv:2507.18071, eq. 7): s_i = (π(y)/π_old(y))^(1/|y|). Differentiable.
    """
    return (log_ratio * mask).sum(axis=-1, keepdims=True) / mx.maximum(mask.sum(axis=-1, keepdims=True), 1)


def clipped_surrogate(tokens: Tokens, keys: LossKeys) -> TokenLoss:
    """−min(min(r, delta)·A, clip(r, 1 − low, 1 + high)·A).

    PPO's clipped objective (Schulman et al. 2017, arXiv:1707.06347, eq. 7); with one ratio per sequence,
    GSPO's (arXiv:2507.18071, eq. 5) and LUSPO's (arXiv:2602.05261). Once r is past the bound in the direction
    of the advantage, the gradient is 0. `delta` bounds the loss of a token that became much likelier despite
    a negative advantage (INTELLECT-2, arXiv:2505.07291, section 3.4; TRL's `delta`). A token counts as
    clipped if a bound sets its gradient to 0.
    """
    clip, advantages, ratio = Clip.of(keys), tokens.advantages, mx.exp(tokens.log_ratio)
    bounded = mx.clip(ratio, 1.0 - clip.low, 1.0 + clip.high)
    cut = bounded * advantages < ratio * advantages
    low, high = cut & (advantages < 0), cut & (advantages > 0)
    if clip.delta:
        cut = cut | ((ratio > clip.delta) & (advantages < 0))
        ratio = mx.minimum(ratio, clip.delta)
    return TokenLoss(-mx.minimum(ratio * advantages, bounded * advantages), cut, low, high)


def weighted_policy_gradient(tokens: Tokens, keys: LossKeys) -> TokenLoss:
    """CISPO: −sg(min(r, 1 + high))·A·logp. No token loses its gradient, but its weight is bounded.

    Source: MiniMax-M1, arXiv:2506.13585, eq. 4 and 5, without a lower bound, as there and in TRL; sg stops
    the gradient. TRL's `epsilon_high` is the bound itself, 1 + high here.
    """
    clip, advantages, ratio = Clip.of(keys), tokens.advantages, mx.exp(tokens.log_ratio)
    cut = ratio > 1.0 + clip.high
    weight = mx.stop_gradient(mx.minimum(ratio, 1.0 + clip.high))
    high = cut & (advantages > 0)
    return TokenLoss(-weight * advantages * tokens.logprobs, cut, mx.zeros_like(high), high)


def policy_gradient(tokens: Tokens, keys: LossKeys) -> TokenLoss:
    """−logp·A: REINFORCE as in nanochat's scripts/chat_rl.py, on policy, without ratio or clipping."""
    del keys
    return TokenLoss.unclipped(-tokens.logprobs * tokens.advantages)


def soft_gate(tokens: Tokens, keys: LossKeys) -> TokenLoss:
    """SAPO: −(4/τ)·σ(τ·(r − 1))·A, with a temperature τ for each sign of the advantage.

    Its gradient is that of −r·A times 4·σ·(1 − σ), which is 1 at r = 1 and falls smoothly on both sides.
    Source: arXiv:2511.20347, eq. 6, and TRL's `sapo`: an advantage of 0 has the temperature of negative ones.
    """
    positive = tokens.advantages > 0
    temperature = mx.where(positive, keys.sapo_temperature_pos, keys.sapo_temperature_neg)  # (B, 1)
    gate = mx.sigmoid(temperature * (mx.exp(tokens.log_ratio) - 1.0)) * 4.0 / temperature
    return TokenLoss.unclipped(-gate * tokens.advantages)


def gamma_weighted_gradient(tokens: Tokens, keys: LossKeys) -> TokenLoss:
    """VESPO: −sg(φ(W))·A·logp with φ(W) = W^k · exp(λ·(1 − W)), and W = π(y)/π_rollout(y) of the sequence.

    φ(1) = 1. k and λ depend on the sign of the advantage. W is a product over the tokens, not a mean. If a
    quantized copy sampled, W includes the token-level importance weights after their bounds.
    Source: arXiv:2602.10693, section 3.4, with the numerical bounds of TRL's `vespo`.
    """
    log_ratio = (mx.clip(tokens.token_log_ratio, -MOST, MOST) * tokens.mask).sum(axis=-1, keepdims=True)
    if tokens.log_weights is not None:
        bounded = mx.clip(tokens.log_weights, LEAST, MOST) * tokens.mask
        log_ratio = log_ratio + bounded.sum(axis=-1, keepdims=True)
    log_ratio = mx.clip(log_ratio, LEAST, MOST)  # (B, 1)
    is_low = tokens.advantages < 0
    k = mx.where(is_low, keys.vespo_k_neg, keys.vespo_k_pos)
    decay = mx.maximum(mx.where(is_low, keys.vespo_lambda_neg, keys.vespo_lambda_pos), 1e-4)
    weight = mx.stop_gradient(mx.exp(decay + k * log_ratio - decay * mx.exp(log_ratio)))
    return TokenLoss.unclipped(-weight * tokens.advantages * tokens.logprobs)


def divergence_bounded_gradient(tokens: Tokens, keys: LossKeys) -> TokenLoss:
    """DPPO: −sg(min(r, clip_ratio_c))·A·logp, and 0 for tokens whose probability moved too far.

    Too far: the divergence of the token's probability from the sampler's is above clip_eps_high and the
    token became likelier, with a positive advantage; or above clip_eps and it became less likely, without.
    Source: arXiv:2602.04879, the binary divergences, and the DPPOTrainer that TRL had up to 1.8. The ratio is
    to the policy that sampled, also if that was a quantized copy.
    """
    clip, advantages = Clip.of(keys), tokens.advantages
    new, old = mx.exp(tokens.logprobs), mx.exp(tokens.logprobs - tokens.log_ratio)  # (B, T)
    divergence = DIVERGENCES[keys.divergence_type](new, old, tokens.log_ratio)
    high = (divergence > clip.high) & (new > old) & (advantages > 0)
    low = (divergence > clip.low) & (new < old) & (advantages <= 0)
    ratio = mx.exp(mx.minimum(tokens.log_ratio, math.log(keys.clip_ratio_c)))
    weight = mx.stop_gradient(mx.where(low | high, 0.0, ratio))
    return TokenLoss(-weight * advantages * tokens.logprobs, low | high, low, high)


def total_variation(new: mx.array, old: mx.array, log_ratio: mx.array) -> mx.array:
    """|new − old|, of the two-valued distribution of a token against all others. (B, T)"""
    del log_ratio
    return mx.abs(new - old)


def binary_kl(new: mx.array, old: mx.array, log_ratio: mx.array) -> mx.array:
    """KL(old ‖ new) of the two-valued distribution of a token against all others, in nats. (B, T)"""
    rest = [mx.log1p(-mx.minimum(probability, 1.0 - 1e-7)) for probability in (old, new)]
    return -old * log_ratio + (1.0 - old) * (rest[0] - rest[1])


DIVERGENCES = {"binary_tv": total_variation, "binary_kl": binary_kl}


def geometric_mean(tokens: Tokens, keys: LossKeys) -> TokenLoss:
    """GMPO: −A times the geometric mean of the sequence's ratios, each clipped in the advantage's direction.

    Bounds are those of log r: at most clip_eps_high with a positive advantage, at least −clip_eps otherwise.
    The mean is over the tokens with a policy loss. (B, 1). Source: arXiv:2507.20673, eq. 4, and TRL's
    GMPOTrainer, except that a quantized sampler's importance weights apply here, one per sequence.
    """
    clip, advantages, log_ratio = Clip.of(keys), tokens.advantages, tokens.token_log_ratio
    high = (log_ratio > clip.high) & (advantages > 0)
    low = (log_ratio < -clip.low) & (advantages < 0)
    bounded = mx.where(advantages > 0, mx.minimum(log_ratio, clip.high), mx.maximum(log_ratio, -clip.low))
    chosen = tokens.mask if tokens.policy_mask is None else tokens.mask & tokens.policy_mask
    loss = -advantages * mx.exp(sequence_log_ratio(bounded, chosen))  # (B, 1)
    if tokens.policy_mask is not None:  # it is summed over the chosen tokens, its weight is 1 / all tokens
        counts = [mask.sum(axis=-1, keepdims=True) for mask in (tokens.mask, chosen)]
        loss = loss * counts[0] / mx.maximum(counts[1], 1)
    return TokenLoss(loss, low | high, low, high)


TokenLossFunction = Callable[[Tokens, LossKeys], TokenLoss]
TOKEN_LOSSES: dict[str, TokenLossFunction] = {
    loss.__name__: loss
    for loss in (
        *(clipped_surrogate, weighted_policy_gradient, policy_gradient, soft_gate, geometric_mean),
        *(gamma_weighted_gradient, divergence_bounded_gradient),
    )
}


def token_loss_of(loss_type: str) -> TokenLossFunction:
    """The token loss of a value of the key `loss_type`."""
    return TOKEN_LOSSES[LOSS_TYPES[loss_type].token_loss]
