"""One update of the policy from scored completions: microbatches, gradient, guards, optimizer.

    batches = make_batches(run, groups)                         # with the reference's logprobs
    numbers = update_policy(run, 1, batches, is_on_policy=True)

If memory runs out, a microbatch is divided and computed again, to the same gradient.
"""

import math
import time
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from grpo_cli import device
from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.distributed.phase import Phase
from grpo_cli.engine import events
from grpo_cli.engine.entropy_filter import choose_by_current_entropy
from grpo_cli.engine.grpo.adaptive_entropy import applied_coefficient, next_coefficient
from grpo_cli.engine.grpo.importance_sampling import WeightStats
from grpo_cli.engine.grpo.lr_schedule import learning_rate
from grpo_cli.engine.guards import logprob_mismatch
from grpo_cli.engine.guards.nonfinite import Fault, find_fault
from grpo_cli.engine.ranks.balance import assign_ranks
from grpo_cli.engine.recovery import with_recovery
from grpo_cli.engine.run import Run
from grpo_cli.engine.update.batch import Counting, Microbatch, make_microbatches
from grpo_cli.engine.update.forward import token_logprobs
from grpo_cli.engine.update.gradient import Gradients, UpdateResult, accumulate
from grpo_cli.engine.update.packing import Budget
from grpo_cli.models.adapters import adapters_of, adapters_off
from grpo_cli.models.tree import flat
from grpo_cli.types import RolloutGroup


def make_batches(run: Run, groups: list[RolloutGroup]) -> list[Microbatch]:
    """The step's microbatches, each assigned to a rank. With a KL term, reference logprobs are added."""
    config, has_reference = run.config, run.config.kl_coeff > 0
    made = make_microbatches(
        groups,
        LOSS_TYPES[config.loss_type],
        config.max_new_tokens,
        config.batch_size,
        has_reference,
        Counting.of(config),
        Budget(config.microbatch_tokens, run.forward_plan.share_prefix) if config.microbatch_tokens else None,
    )
    batches = assign_ranks(made, run.world.size)
    for batch in own_batches(run, batches) if has_reference else []:
        parts = batch.in_rows(run.update_limit.rows)
        batch.ref_logprobs = mx.concatenate([reference_logprobs(run, part) for part in parts])  # (B, S)
    return batches


def own_batches(run: Run, batches: list[Microbatch]) -> list[Microbatch]:
    """The microbatches assigned to this rank."""
    return [batch for batch in batches if batch.rank == run.world.rank]


def update_policy(
    run: Run, step: int, batches: list[Microbatch], is_on_policy: bool = False
) -> dict[str, Any]:
    """One optimizer update, skipped if loss or gradient is NaN; returns its metrics for the log.

    No microbatches (all advantages are 0) means no update: weights, optimizer moments and weight decay stay
    as they are. (PyTorch's AdamW, and so TRL, would still move the weights by momentum.) `is_on_policy`: the
    current weights sampled the completions, so the logprobs of sampler and loss must agree. Raises
    TrainingError if they disagree, or if the update leaves the weights unchanged.
    """
    config, started = run.config, time.perf_counter()
    rate = learning_rate(
        step, run.total_steps, config.learning_rate, config.warmup_ratio, config.lr_scheduler_type
    )
    result, fault, deviation = nothing(config), None, None
    if batches:
        run.world.set_phase(Phase.UPDATING)
        set_entropy_coefficient(run, batches)
        if config.filters_by_current_entropy and (config.quantize_for_rollouts or not is_on_policy):
            choose_by_current_entropy(run, batches)
        proves = is_on_policy and not run.weights_moved.is_given and has_advantages(batches)
        if proves:
            run.weights_moved.begin(run.trained_weights())
        with run.interruption.breakable():
            gradients, result = compute_gradient(run, batches)
            fault = find_fault(run.policy.model, own_batches(run, batches), run.objective, result, gradients)
            if fault is None and is_on_policy:
                deviation = compare_with_sampler(run, batches, result)
        if fault is None:
            run.sampler.outdate()
            run.optimizer.step(run.policy.model, gradients, result.grad_norm, rate)
            if proves:
                run.weights_moved.end(run.trained_weights(), result.grad_norm, rate)
            remember_first(batches, result)
            adapt_entropy(run, result)
    return {
        "lr": rate,
        **update_numbers(result, fault, config),
        **({"entropy_coeff": entropy_coefficient(run)} if config.use_adaptive_entropy else {}),
        "ratio_deviation": deviation,
        "update_seconds": time.perf_counter() - started,
    }


def compute_gradient(run: Run, batches: list[Microbatch]) -> tuple[Gradients, UpdateResult]:
    """The gradient of the step's loss, summed over microbatches and ranks."""
    return accumulate(
        run.policy.model,
        batches,
        run.objective,
        lambda *progress: run.progress(events.UpdateProgress(*progress)),
        run.update_limit,
        run.world,
        compiled=run.compiled,
    )


def entropy_coefficient(run: Run) -> float:
    """The present coefficient of the adaptive entropy bonus."""
    found = run.state.entropy_coeff
    return run.config.entropy_coeff if found is None else found


def set_entropy_coefficient(run: Run, batches: list[Microbatch]) -> None:
    """Give the microbatches the coefficient of this update if it is adaptive."""
    if not run.config.use_adaptive_entropy:
        return
    applied = applied_coefficient(run.config, entropy_coefficient(run), run.state.last_entropy)
    for batch in batches:
        batch.entropy_coeffs = mx.full((len(batch.rows), 1), applied)


def adapt_entropy(run: Run, result: UpdateResult) -> None:
    """Adapt the coefficient of the next update to the entropy of this one."""
    if run.config.use_adaptive_entropy and result.entropy is not None:
        run.state.entropy_coeff = next_coefficient(run.config, entropy_coefficient(run), result.entropy)
        run.state.last_entropy = result.entropy


def has_advantages(batches: list[Microbatch]) -> bool:
    """True if any completion has a non-zero advantage."""
    return any(rollout.advantage != 0.0 for batch in batches for rollout in batch.rollouts)


def nothing(config: Config) -> UpdateResult:
    """The result of an update without microbatches: zeros."""
    result = UpdateResult(
        loss=0.0,
        grad_norm=0.0,
        clip_ratio=0.0,
        clip_ratio_low=0.0,
        clip_ratio_high=0.0,
        kl=0.0 if config.kl_coeff > 0 else None,
    )
    result.importance = WeightStats() if config.quantize_for_rollouts else None
    result.router_aux_loss = 0.0 if config.router_aux_loss_coef else None
    return result


def update_numbers(result: UpdateResult, fault: Fault | None, config: Config) -> dict[str, Any]:
    """Log metrics for one update: applied, empty, or skipped. If skipped, NaN becomes null."""
    numbers = {
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "kl": result.kl,
        "clip_ratio": result.clip_ratio,
        "clip_ratio_low": result.clip_ratio_low,
        "clip_ratio_high": result.clip_ratio_high,
        **({"off_policy_masked": result.off_policy_masked} if config.off_policy_mask_threshold else {}),
        **(result.importance.numbers() if result.importance else {}),
        **({} if result.router_aux_loss is None else {"router_aux_loss": result.router_aux_loss}),
    }
    if fault is None:
        return numbers
    finite = {
        name: value if value is not None and math.isfinite(value) else None for name, value in numbers.items()
    }
    return {**finite, "skipped": str(fault)}


def remember_first(batches: list[Microbatch], result: UpdateResult) -> None:
    """Store the logprobs of the first update's forward as the old logprobs of the later updates."""
    for batch, logprobs in zip(batches, result.logprobs, strict=True):
        if batch.old_is_current:
            batch.remember(logprobs)


def remember_old(run: Run, batches: list[Microbatch]) -> None:
    """Store the current policy's logprobs as the old logprobs of microbatches that later steps train on."""
    found = [
        mx.where(batch.loss_mask, logprobs_by(run, run.policy.model, batch), 0.0)
        if batch.rank == run.world.rank
        else mx.zeros(batch.targets.shape)
        for batch in batches
    ]
    for batch, logprobs in zip(batches, run.world.sum(found), strict=True):
        batch.remember(logprobs)


def reference_logprobs(run: Run, batch: Microbatch) -> mx.array:
    """Logprobs (B, S) of the reference: a frozen copy, or the policy with other adapters or none.

    Adapters change nothing at first, so that without a warm start the base is the policy of the first step.
    """
    policy = run.policy
    if run.reference:  # full fine-tuning
        return logprobs_by(run, run.reference.model, batch)
    is_base = not policy.start or run.config.kl_reference == "base"
    with adapters_off(policy.model) if is_base else adapters_of(policy.model, policy.start):
        return logprobs_by(run, policy.model, batch)


def logprobs_by(run: Run, model: nn.Module, batch: Microbatch) -> mx.array:
    """A model's logprobs (B, S), evaluated, by the forward of the loss; in parts if memory runs out."""

    def compute(part: Microbatch) -> mx.array:
        logprobs = token_logprobs(model, part, run.config.temperature, run.forward_plan)
        mx.eval(logprobs)
        return logprobs

    return mx.concatenate(list(with_recovery(batch, compute, run.update_limit)))


def compare_with_sampler(run: Run, batches: list[Microbatch], result: UpdateResult) -> float | None:
    """Mean |logprob of the loss − logprob of the sampler|; TrainingError if the first one is too large."""
    deviation = logprob_mismatch.measure(batches, result.logprobs)
    if deviation is None:
        return None
    if not run.sampler_agrees:
        check_sampler(run, batches, deviation)
        run.sampler_agrees = True
    return deviation.mean


def check_sampler(run: Run, batches: list[Microbatch], deviation: logprob_mismatch.Deviation) -> None:
    """Raise TrainingError if the sampler's logprobs are not those of a forward of the sampled model."""
    if run.sampler.copy is None:
        check_logprobs(run, run.policy.model, batches, deviation)
        return
    copy = run.sampler.copy.model
    again = logprob_mismatch.measure(batches, [logprobs_by(run, copy, batch) for batch in batches])
    check_logprobs(run, copy, batches, again or deviation)
    run.sampler.check(deviation)


def check_logprobs(
    run: Run, model: nn.Module, batches: list[Microbatch], deviation: logprob_mismatch.Deviation
) -> None:
    """Raise TrainingError if the sampler's logprobs are too far from those of the model's forward."""
    weights, temperature = list(flat(model.parameters()).values()), run.config.temperature
    logprob_mismatch.check(
        deviation,
        logprob_mismatch.tolerance(weights, temperature, device.prepare().kind == "cpu"),
        run.policy.tokenizer,
        lambda: logprob_mismatch.cause(model, batches, deviation, temperature),
    )
