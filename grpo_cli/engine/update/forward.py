"""The forward pass of the loss: logprobs and entropies of completion tokens at the sampling temperature.

    plan = ForwardPlan(share_prefix=True, head=find_head(model))
    logprobs = token_logprobs(model, batch, temperature=1.0, plan)      # (B, S) float32

A ForwardPlan changes cost, not results: a prompt is computed once per group or once per row, logits all at
once or in slices, activations stored for the backward or recomputed.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.engine.grpo.entropy import logprobs_and_entropies
from grpo_cli.engine.memory.estimate import LOGITS_AT_ONCE
from grpo_cli.engine.rollout.prompt_cache import completion_outputs, completion_places
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.chunked_logits import Head, chosen_logprobs
from grpo_cli.engine.update.shape_buckets import PaddedBatch
from grpo_cli.models.batch_plan import RowsTogether
from grpo_cli.models.lean_layers import lean_layers

Batch = Microbatch | PaddedBatch


@dataclass(frozen=True)
class ForwardPlan:
    """Options of a run's forward passes, chosen once from its model and configuration."""

    share_prefix: bool = True  # compute each prompt once per group
    head: Head | None = None  # the output head, to compute logits in slices; None: it cannot be separated
    recompute: bool = False  # recompute layers in the backward (gradient checkpointing)
    together: RowsTogether = "mixed"  # the way of reading prompts that are shared

    def places(self, batch: Batch) -> mx.array | None:
        """Columns of the completions' inputs in the last call of the model: (B, S); None = all of them."""
        if self.share_prefix or not isinstance(batch, Microbatch):
            return None
        return completion_places([batch.prompts[row] for row in batch.rows], batch.targets.shape[1])


PLAIN = ForwardPlan()


def token_logprobs(
    model: nn.Module, batch: Microbatch, temperature: float, plan: ForwardPlan = PLAIN
) -> mx.array:
    """log π(target) at the sampling temperature: (B, S) float32."""
    with lean_layers(model):
        return token_scores(model, batch, temperature, plan, entropy=False)[0]


def token_scores(
    model: nn.Module, batch: Batch, temperature: float, plan: ForwardPlan, *, entropy: bool
) -> tuple[mx.array, mx.array | None]:
    """Logprobs of the targets and, with `entropy`, entropies, at the sampling temperature: (B, S) float32.

    With a head, logits are computed at completion positions only, and in slices if all of them together
    exceed LOGITS_AT_ONCE numbers.
    """
    head = plan.head
    outputs = completion_outputs(
        model,
        batch.prompts,
        batch.rows,
        batch.inputs,
        share_prefix=plan.share_prefix,
        together=plan.together,
        part=getattr(model, head.trunk) if head else None,
        recompute=plan.recompute,
    )  # (B, S, V); with a head the trunk's hidden states (B, S, H)
    if head is not None and batch.targets.size * head.vocabulary > LOGITS_AT_ONCE:
        scores = head.scores(model, outputs, batch.targets, temperature, entropy)
        return scores[0], scores[1] if entropy else None
    logits = head.logits(model, outputs) if head else outputs
    logits = logits.astype(mx.float32) / temperature  # (B, S, V)
    if entropy:
        return logprobs_and_entropies(logits, batch.targets)
    return chosen_logprobs(logits, batch.targets), None
