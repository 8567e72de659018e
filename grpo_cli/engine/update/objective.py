"""The loss of a microbatch: Σ weight · (w · policy loss + kl_coeff · KL − entropy_coeff · entropy).

    objective = Objective(config, plan)
    loss, measured = microbatch_loss(model, batch, objective)

The parts are pure functions in engine/grpo: losses.py, kl.py, entropy.py, averaging.py (weight) and
importance_sampling.py (w).
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine.grpo.importance_sampling import Correction, ImportanceWeights, summed
from grpo_cli.engine.grpo.kl import ESTIMATORS, corrected
from grpo_cli.engine.grpo.losses import Tokens, sequence_log_ratio, token_loss_of
from grpo_cli.engine.grpo.off_policy_mask import is_kept
from grpo_cli.engine.update.expert_balance import recorded_routing
from grpo_cli.engine.update.forward import PLAIN, Batch, ForwardPlan, token_scores


@dataclass(frozen=True, eq=False)
class Objective:
    """The configured loss, and the plan of its forward."""

    config: Config
    plan: ForwardPlan = PLAIN

    @property
    def correction(self) -> Correction | None:
        """The importance-sampling correction; None if the policy itself samples."""
        return Correction.of(self.config)

    def weights(self, batch: Batch, old_logprobs: mx.array) -> ImportanceWeights | None:
        """The importance weights π_old/π_rollout; None if the policy itself sampled the batch."""
        correction = self.correction
        if correction is None or batch.sampler_logprobs is None:
            return None
        log_weight = old_logprobs - batch.sampler_logprobs  # (B, S)
        return correction.weights(log_weight, batch.loss_mask, self.config.has_sequence_ratio)

    def kept(self, batch: Batch, logprobs: mx.array, old_logprobs: mx.array) -> mx.array:
        """True for completions with a policy loss, by `off_policy_mask_threshold`: (B, 1) or (1, 1)."""
        threshold, sampler = self.config.off_policy_mask_threshold, batch.sampler_logprobs
        if not threshold:
            return mx.ones((1, 1), dtype=mx.bool_)
        sampled = old_logprobs if sampler is None else sampler
        return is_kept(logprobs, sampled, batch.advantages, batch.loss_mask, threshold)


class ForwardStats(NamedTuple):
    """Measurements of a microbatch's forward, besides its loss."""

    # (4,) numbers of tokens: whose ratio was clipped by any bound, below, above; of dropped completions
    cuts: mx.array
    # (3,) Σ KL and Σ entropy over tokens, and the balance of experts times the sum of weights; 0 where unused
    totals: mx.array
    logprobs: mx.array  # (B, S), 0 on padding
    importance: mx.array  # (3,) from importance_sampling.summed; 0 without a correction


def microbatch_loss(model: nn.Module, batch: Batch, objective: Objective) -> tuple[mx.array, ForwardStats]:
    """Weighted loss of a microbatch: Σ weight · (w · policy loss + kl_coeff · KL − entropy_coeff · entropy).

    w is 1 unless a quantized copy sampled (importance_sampling.py). The entropy filter (`policy_mask`) sets
    the policy loss of the other tokens to 0. They keep KL and bonus, and the average is still over all tokens
    (arXiv:2506.01939, eq. 5, and TRL). The entropy bonus has the same token weights as the loss. The balance
    of experts (expert_balance.py) is added with router_aux_loss_coef and the sum of these weights.
    """
    config, mask = objective.config, batch.loss_mask
    with recorded_routing(model) if config.router_aux_loss_coef else nullcontext() as routing:
        logprobs, entropies = token_scores(
            model, batch, config.temperature, objective.plan, entropy=config.has_entropy_bonus
        )
    logprobs = mx.where(mask, logprobs, 0.0)  # (B, S)
    old_logprobs = mx.stop_gradient(logprobs) if batch.old_is_current else batch.old_logprobs
    weights = objective.weights(batch, old_logprobs)
    tokens = tokens_of(config, batch, logprobs, old_logprobs, weights)
    token = token_loss_of(config.loss_type)(tokens, config)
    loss, divergence = token.loss, mx.zeros_like(logprobs)
    if weights is not None and LOSS_TYPES[config.loss_type].sampler_weight == "factor":
        loss = loss * weights.bounded
    if batch.policy_mask is not None:
        loss = loss * batch.policy_mask
    kept = objective.kept(batch, logprobs, old_logprobs)
    loss = loss * kept
    if batch.ref_logprobs is not None:
        ref_logprobs = mx.where(mask, batch.ref_logprobs, 0.0)
        divergence = ESTIMATORS[config.kl_estimator](logprobs, ref_logprobs)
        if config.use_bias_correction_kl:
            divergence = corrected(divergence, tokens.log_ratio)
        loss = loss + config.kl_coeff * divergence
    entropy = mx.zeros_like(logprobs) if entropies is None else mx.where(mask, entropies, 0.0)  # (B, S)
    if entropies is not None:
        coefficient = config.entropy_coeff if batch.entropy_coeffs is None else batch.entropy_coeffs
        loss = loss - coefficient * entropy
    cuts = mx.stack([(cut & mask).sum() for cut in (token.clipped, token.low, token.high, ~kept)])
    importance = mx.zeros(3) if weights is None else summed(weights, mask)
    weight = batch.weights * mask
    total, balance = (weight * loss).sum(), mx.zeros(())
    if routing is not None:
        balance = weight.sum() * routing.balance(mask, objective.plan.places(batch))
        total = total + config.router_aux_loss_coef * balance
    totals = mx.stack([divergence.sum(), entropy.sum(), balance])
    return total, ForwardStats(cuts, totals, logprobs, importance)


def tokens_of(
    config: Config,
    batch: Batch,
    logprobs: mx.array,
    old_logprobs: mx.array,
    weights: ImportanceWeights | None,
) -> Tokens:
    """The arguments of the token loss. `logprobs`, `old_logprobs`: (B, S)."""
    mask, kind = batch.loss_mask, LOSS_TYPES[config.loss_type].sampler_weight
    if kind == "none" and batch.sampler_logprobs is not None:
        old_logprobs = batch.sampler_logprobs
    # A token that is not trained may have any logprob.
    token_log_ratio = mx.where(mask, logprobs - old_logprobs, 0.0)  # (B, S)
    by_sequence = config.has_sequence_ratio
    return Tokens(
        logprobs=logprobs,
        log_ratio=sequence_log_ratio(token_log_ratio, mask) if by_sequence else token_log_ratio,
        token_log_ratio=token_log_ratio,
        advantages=batch.advantages,
        mask=mask,
        policy_mask=batch.policy_mask,
        log_weights=mx.log(weights.bounded) if weights is not None and kind == "inside" else None,
    )
