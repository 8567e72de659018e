"""The loss of a microbatch: Σ weight · (w · policy loss + kl_coeff · KL − entropy_coeff · entropy).

    objective = Objective(config, plan)
    loss, measured = microbatch_loss(model, batch, objective)

The parts are pure functions in engine/grpo: losses.py, kl.py, entropy.py, averaging.py (weight) and
importance_sampling.py (w).
"""

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.config.schema import Config
from grpo_cli.engine.grpo.importance_sampling import Correction, summed
from grpo_cli.engine.grpo.kl import ESTIMATORS, corrected
from grpo_cli.engine.grpo.losses import Clip, sequence_log_ratio, token_loss_of
from grpo_cli.engine.update.forward import PLAIN, Batch, ForwardPlan, token_scores


@dataclass(frozen=True, eq=False)
class Objective:
    """The configured loss, and the plan of its forward."""

    config: Config
    plan: ForwardPlan = PLAIN

    @property
    def clip(self) -> Clip:
        """Bounds of the ratio; clip_eps_high = 0 means clip_eps on both sides."""
        config = self.config
        return Clip(config.clip_eps, config.clip_eps_high or config.clip_eps, config.delta)

    @property
    def correction(self) -> Correction | None:
        """The importance-sampling correction; None if the policy itself samples."""
        return Correction.of(self.config)


class ForwardStats(NamedTuple):
    """Measurements of a microbatch's forward, besides its loss."""

    cuts: mx.array  # (3,) numbers of tokens whose ratio was clipped: by any bound, below, and above
    divergence: mx.array  # Σ KL over tokens, a scalar
    logprobs: mx.array  # (B, S), 0 on padding
    importance: mx.array  # (3,) from importance_sampling.summed; 0 without a correction


def microbatch_loss(model: nn.Module, batch: Batch, objective: Objective) -> tuple[mx.array, ForwardStats]:
    """Weighted loss of a microbatch: Σ weight · (w · policy loss + kl_coeff · KL − entropy_coeff · entropy).

    w is 1 unless a quantized copy sampled (importance_sampling.py). The entropy filter (`policy_mask`) sets
    the policy loss of the other tokens to 0. They keep KL and bonus, and the average is still over all tokens
    (arXiv:2506.01939, eq. 5, and TRL). The entropy bonus has the same token weights as the loss.
    """
    config, mask = objective.config, batch.loss_mask
    logprobs, entropies = token_scores(
        model, batch, config.temperature, objective.plan, entropy=config.entropy_coeff != 0
    )
    logprobs = mx.where(mask, logprobs, 0.0)  # (B, S)
    old_logprobs = mx.stop_gradient(logprobs) if batch.old_is_current else batch.old_logprobs
    log_ratio = mx.where(
        mask, logprobs - old_logprobs, 0.0
    )  # (B, S); a token that is not trained may have any
    if config.has_sequence_ratio:
        log_ratio = sequence_log_ratio(log_ratio, mask)  # (B, 1)
    token = token_loss_of(config.loss_type)(logprobs, log_ratio, batch.advantages, objective.clip)
    loss, divergence, importance = token.loss, mx.zeros_like(logprobs), mx.zeros(3)
    correction = objective.correction
    if correction is not None and batch.sampler_logprobs is not None:
        log_weight = old_logprobs - batch.sampler_logprobs  # (B, S)
        weights = correction.weights(log_weight, mask, config.has_sequence_ratio)
        loss, importance = loss * weights.bounded, summed(weights, mask)
    if batch.policy_mask is not None:
        loss = loss * batch.policy_mask
    if batch.ref_logprobs is not None:
        ref_logprobs = mx.where(mask, batch.ref_logprobs, 0.0)
        divergence = ESTIMATORS[config.kl_estimator](logprobs, ref_logprobs)
        if config.use_bias_correction_kl:
            divergence = corrected(divergence, log_ratio)
        loss = loss + config.kl_coeff * divergence
    if entropies is not None:
        loss = loss - config.entropy_coeff * mx.where(mask, entropies, 0.0)
    cuts = mx.stack([(cut & mask).sum() for cut in (token.clipped, token.low, token.high)])
    return (batch.weights * mask * loss).sum(), ForwardStats(cuts, divergence.sum(), logprobs, importance)
