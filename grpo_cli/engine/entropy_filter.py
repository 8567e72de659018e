"""The filter by entropy (`top_entropy_quantile`) with the entropies of the current policy.

    choose_by_current_entropy(run, batches)     # before an update on another policy's rollouts

By default the entropies that the sampler measured choose the tokens with a policy loss; then the same tokens
have one in every update on these rollouts. With top_entropy_policy = "current" they are chosen before each
update, as in TRL, where the training forward measures them. Departs from TRL: the threshold is over the whole
step, not over one microbatch, so it does not depend on the size of the microbatches.
"""

import mlx.core as mx

from grpo_cli.engine.grpo.entropy import high_entropy_threshold
from grpo_cli.engine.recovery import with_recovery
from grpo_cli.engine.run import Run
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.forward import token_scores
from grpo_cli.models.lean_layers import lean_layers


def choose_by_current_entropy(run: Run, batches: list[Microbatch]) -> None:
    """Choose the tokens with a policy loss anew, by their entropies in the current policy."""
    found = [
        entropies_by(run, batch) if batch.rank == run.world.rank else mx.zeros(batch.targets.shape)
        for batch in batches
    ]
    entropies = run.world.sum(found) if run.world.size > 1 else found  # of (B, S)
    masks: list[list[list[bool]]] = [batch.loss_mask.tolist() for batch in batches]  # type: ignore[misc]
    every = [
        value
        for of_batch, mask in zip(entropies, masks, strict=True)
        for values, trained in zip(of_batch.tolist(), mask, strict=True)
        for value, is_trained in zip(values, trained, strict=True)
        if is_trained
    ]
    threshold = high_entropy_threshold(every, run.config.top_entropy_quantile)
    for batch, of_batch in zip(batches, entropies, strict=True):
        batch.policy_mask = batch.loss_mask & (of_batch >= threshold)


def entropies_by(run: Run, batch: Microbatch) -> mx.array:
    """The current policy's entropies (B, S) in nats, evaluated; in parts if memory runs out."""

    def compute(part: Microbatch) -> mx.array:
        model, temperature = run.policy.model, run.config.temperature
        with lean_layers(model):
            _, entropies = token_scores(model, part, temperature, run.forward_plan, entropy=True)
        mx.eval(entropies)
        return entropies  # type: ignore[return-value]  # asked for

    return mx.concatenate(list(with_recovery(batch, compute, run.update_limit)))
