"""The gradient of one step: forward, loss and backward over its microbatches.

The loss of a microbatch is Σ weight · token loss; adding the microbatches' gradients gives the
gradient of the whole step. Each microbatch is evaluated before the next begins, so memory is that of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from grpo_cli.config.schema import Config
from grpo_cli.engine.allocation import RowLimit, in_parts
from grpo_cli.engine.batch import Microbatch
from grpo_cli.engine.losses import LOSSES, k3_divergence
from grpo_cli.engine.prefix import completion_logits
from grpo_cli.models.tree import flat

Gradients = Any  # a tree of arrays, shaped like the trainable parameters
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Objective:
    """Everything the loss needs of the configuration."""

    loss_type: str
    temperature: float
    clip_low: float
    clip_high: float
    kl_coeff: float
    share_prefix: bool = True  # read each prompt once for its group

    @staticmethod
    def of(config: Config, share_prefix: bool = True) -> "Objective":
        """The configured objective; clip_eps_high = 0 means symmetric."""
        high = config.clip_eps_high or config.clip_eps
        return Objective(
            config.loss_type, config.temperature, config.clip_eps, high, config.kl_coeff, share_prefix
        )


@dataclass
class UpdateResult:
    """What one update did."""

    loss: float
    grad_norm: float  # before clipping
    clip_ratio: float  # share of trained tokens whose ratio was clipped
    kl: float | None  # mean k3 by token against the reference; None without one


def token_logprobs(
    model: nn.Module, batch: Microbatch, temperature: float, share_prefix: bool = True
) -> mx.array:
    """log π(target) at the sampling temperature: (B, S) float32."""
    logits = completion_logits(model, batch.prompts, batch.rows, batch.inputs, share_prefix)
    logits = logits.astype(mx.float32) / temperature  # (B, S, V)
    chosen = mx.take_along_axis(logits, batch.targets[..., None], axis=-1).squeeze(-1)
    return chosen - mx.logsumexp(logits, axis=-1)


def microbatch_loss(
    model: nn.Module, batch: Microbatch, objective: Objective
) -> tuple[mx.array, mx.array, mx.array]:
    """Weighted loss of a microbatch, with Σ clipped tokens and Σ k3 for the log (all scalars)."""
    mask = batch.completion_mask
    logprobs = token_logprobs(model, batch, objective.temperature, objective.share_prefix)
    logprobs = mx.where(mask, logprobs, 0.0)  # (B, S)
    token = LOSSES[objective.loss_type].token_loss(
        logprobs, batch.old_logprobs, batch.advantages, objective.clip_low, objective.clip_high
    )
    loss, divergence = token.loss, mx.zeros_like(logprobs)
    if batch.ref_logprobs is not None:
        divergence = k3_divergence(logprobs, mx.where(mask, batch.ref_logprobs, 0.0))
        loss = loss + objective.kl_coeff * divergence
    return (batch.weights * mask * loss).sum(), (token.clipped & mask).sum(), divergence.sum()


@dataclass
class Sums:
    """What is added up over the microbatches of a step."""

    gradients: Gradients = None  # those of all microbatches so far
    loss: float = 0.0
    clipped: int = 0
    divergence: float = 0.0
    tokens: int = 0

    def add(self, part: "Sums") -> None:
        """Take in a microbatch, whose gradients hold the sum already."""
        self.gradients = part.gradients
        self.loss += part.loss
        self.clipped += part.clipped
        self.divergence += part.divergence
        self.tokens += part.tokens


def accumulate(
    model: nn.Module,
    batches: list[Microbatch],
    objective: Objective,
    on_progress: Progress | None = None,
    limit: RowLimit | None = None,
) -> tuple[Gradients, UpdateResult]:
    """Gradient of the whole step, summed over its microbatches, and the numbers for the log.

    With no microbatch (every advantage was 0) the gradient is exactly 0. A microbatch that memory cannot
    hold is halved, as often as needed, and `limit` remembers it: the sum is the same.
    """
    loss_and_grad = nn.value_and_grad(model, microbatch_loss)
    limit = limit or RowLimit()
    total = Sums()

    def compute(batch: Microbatch) -> Sums:
        (loss, clipped, divergence), gradients = loss_and_grad(model, batch, objective)
        gradients = tree_map(lambda gradient: gradient.astype(mx.float32), gradients)
        if total.gradients is not None:
            gradients = tree_map(mx.add, total.gradients, gradients)
        mx.eval(gradients, loss, clipped, divergence)
        return Sums(
            gradients, float(loss.item()), int(clipped.item()), float(divergence.item()), batch.token_count
        )

    for index, batch in enumerate(batches):
        for rows in batch.in_rows(limit.rows):
            for part in in_parts(rows, compute, Microbatch.halves, limit.lower):
                total.add(part)
        if on_progress:
            on_progress(index + 1, len(batches))
    gradients = total.gradients
    if gradients is None:
        gradients = tree_map(mx.zeros_like, model.trainable_parameters())
    tokens = max(total.tokens, 1)
    kl = total.divergence / tokens if objective.kl_coeff > 0 else None
    return gradients, UpdateResult(total.loss, global_norm(gradients), total.clipped / tokens, kl)


def global_norm(gradients: Gradients) -> float:
    """Euclidean norm of all gradients together, summed in float32."""
    squares = [gradient.square().sum() for gradient in flat(gradients).values()]
    return float(mx.sqrt(mx.stack(squares).sum()))
