"""The loss of a microbatch: Σ weight · (w · policy loss + kl_coeff · KL − entropy_coeff · entropy).

objective = Objective(config, plan)
loss, measured = microbatch_loss(model, batch, objective)
"""

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.config.schema import Config
from grpo_cli.engine.grpo.importance_sampling import Correction, summed
from grpo_cli.engine.grpo.kl import ESTIMATORS, corrected
from grpo_cli.engine.grpo.losses import LOSSES, Clip, sequence_log_ratio
from grpo_cli.engine.update.forward import PLAIN, Batch, ForwardPlan, token_scores


@dataclass(frozen=True, eq=False)
class Objective:
    """What is minimised, as the configuration says, and how its forward is computed."""

    config: Config
    plan: ForwardPlan = PLAIN

    @property
    def clip(self) -> Clip:
        """Where ratios are cut; clip_eps_high = 0 means as below."""
        config = self.config
        return Clip(config.clip_eps, config.clip_eps_high or config.clip_eps, config.delta)

    @property
    def by_sequence(self) -> bool:
        """Whether a completion has one ratio."""
        return (
            self.config.importance_sampling_level == "sequence" or LOSSES[self.config.loss_type].by_sequence
        )

    @property
    def correction(self) -> Correction | None:
        """The importance weights where another policy was sampled from."""
        return Correction.of(self.config)


class Measured(NamedTuple):
    """What a microbatch's forward gives besides its loss."""

    cuts: mx.array  # (3,) tokens whose ratio was clipped for whatever reason, below, and above
    divergence: mx.array  # Σ KL by token, a scalar
    logprobs: mx.array  # (B, S), 0 on padding
    importance: mx.array  # (3,) of correction.summed; 0 without a correction


def microbatch_loss(model: nn.Module, batch: Batch, objective: Objective) -> tuple[mx.array, Measured]:
    """Weighted loss of a microbatch: Σ weight · (w · policy loss + kl_coeff · KL − entropy_coeff · entropy).

    w is 1 but where another policy was sampled from (importance_sampling.py).
    The token filter by entropy (`policy_mask`) takes the policy loss only, neither KL nor bonus, and no
    weight: the averages are those over all tokens (arXiv:2506.01939, eq. 5, and TRL). The mean entropy is
    averaged as the loss is, by its weights.
    """
    config, mask = objective.config, batch.loss_mask
    logprobs, entropies = token_scores(
        model, batch, config.temperature, objective.plan, entropy=config.entropy_coeff != 0
    )
    logprobs = mx.where(mask, logprobs, 0.0)  # (B, S)
    old_logprobs = mx.stop_gradient(logprobs) if batch.old_is_current else batch.old_logprobs
    log_ratio = logprobs - old_logprobs  # (B, S)
    if objective.by_sequence:
        log_ratio = sequence_log_ratio(log_ratio, mask)  # (B, 1)
    token = LOSSES[config.loss_type].token_loss(logprobs, log_ratio, batch.advantages, objective.clip)
    loss, divergence, importance = token.loss, mx.zeros_like(logprobs), mx.zeros(3)
    correction = objective.correction
    if correction is not None and batch.sampler_logprobs is not None:
        log_weight = old_logprobs - batch.sampler_logprobs  # (B, S)
        weights = correction.weights(log_weight, mask, objective.by_sequence)
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
    return (batch.weights * mask * loss).sum(), Measured(cuts, divergence.sum(), logprobs, importance)
