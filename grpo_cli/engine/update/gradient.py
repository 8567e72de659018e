"""The gradient of one step: forward, loss and backward over its microbatches.

The loss of a microbatch is Σ weight · token loss, so the sum of the microbatches' gradients is the gradient
of the whole step. Each microbatch is evaluated before the next begins, so memory holds one at a time.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from grpo_cli.cpu.exact_sums import total as total_of
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine.grpo.importance_sampling import WeightStats
from grpo_cli.engine.recovery import RowLimit, with_recovery
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.objective import ForwardStats, Objective, microbatch_loss
from grpo_cli.models.lean_layers import lean_layers
from grpo_cli.models.tree import flat

Gradients = Any  # a tree of arrays, shaped like the trainable parameters
Progress = Callable[[int, int], None]
Found = tuple[tuple[mx.array, ForwardStats], Gradients]  # ((loss, measured), gradients) of a microbatch
LossAndGradient = Callable[[nn.Module, Microbatch, Objective], Found]


@dataclass(kw_only=True)
class UpdateResult:
    """Measurements of one update."""

    loss: float
    grad_norm: float  # before clipping
    clip_ratio: float  # share of trained tokens whose ratio was clipped
    clip_ratio_low: float  # share clipped by the lower bound, with a negative advantage
    clip_ratio_high: float  # share clipped by the upper bound, with a positive advantage
    off_policy_masked: float = 0.0  # share of trained tokens in completions dropped as off-policy
    kl: float | None  # mean KL estimate per token; None without a reference
    entropy: float | None = None  # mean entropy per trained token, in nats; None without an entropy bonus
    logprobs: list[mx.array] = field(default_factory=list)  # (B, S) of every microbatch, before the update
    importance: WeightStats | None = None  # statistics of the importance weights; None without a correction
    router_aux_loss: float | None = None  # balance of experts, 1 per chosen expert if even; None without


@dataclass(kw_only=True)
class Sums:
    """Sums over the microbatches of a step."""

    gradients: Gradients = None  # the sum of all microbatches so far
    loss: float = 0.0
    cuts: list[int] = field(default_factory=lambda: [0, 0, 0, 0])  # see ForwardStats.cuts
    divergence: float = 0.0
    entropy: float = 0.0
    tokens: int = 0
    balance: float = 0.0  # see ForwardStats.totals
    importance: WeightStats = field(default_factory=WeightStats)

    def numbers(self) -> dict[str, Any]:
        """All sums but the gradients, for other ranks."""
        of_this = {key: value for key, value in vars(self).items() if key != "gradients"}
        return {**of_this, "importance": asdict(self.importance)}

    def add(self, part: "Sums") -> None:
        """Add a microbatch. Its gradients are the sum so far already, so they replace the old ones."""
        self.gradients = part.gradients
        self.loss += part.loss
        self.cuts = [a + b for a, b in zip(self.cuts, part.cuts, strict=True)]
        self.divergence += part.divergence
        self.entropy += part.entropy
        self.tokens += part.tokens
        self.balance += part.balance
        self.importance.add(part.importance)

    def result(self, model: nn.Module, objective: Objective) -> tuple[Gradients, UpdateResult]:
        """The gradient (exactly 0 if no token was trained) and the numbers for the log."""
        gradients = self.gradients
        if gradients is None:
            gradients = tree_map(mx.zeros_like, model.trainable_parameters())
        tokens = max(self.tokens, 1)
        kl = self.divergence / tokens if objective.config.kl_coeff > 0 else None
        clipped, low, high, dropped = (cut / tokens for cut in self.cuts)
        result = UpdateResult(
            loss=self.loss,
            grad_norm=global_norm(gradients),
            clip_ratio=clipped,
            clip_ratio_low=low,
            clip_ratio_high=high,
            off_policy_masked=dropped,
            kl=kl,
        )
        result.importance = self.importance if objective.correction else None
        result.router_aux_loss = self.balance if objective.config.router_aux_loss_coef else None
        if objective.config.has_entropy_bonus and self.tokens:
            result.entropy = self.entropy / self.tokens
        return gradients, result


def accumulate(
    model: nn.Module,
    batches: list[Microbatch],
    objective: Objective,
    on_progress: Progress | None = None,
    limit: RowLimit | None = None,
    world: World = ALONE,
    compiled: LossAndGradient | None = None,
) -> tuple[Gradients, UpdateResult]:
    """Gradient of the whole step, summed over its microbatches, and the numbers for the log.

    Each rank of a `world` computes its own microbatches, and all receive the sum. Without microbatches (all
    advantages are 0) the gradient is exactly 0. A microbatch that does not fit into memory is divided, with
    the same sum; `limit` remembers how many rows fit. `compiled`: replaces the plain forward and backward
    (compiled_loss.py).
    """
    loss_and_grad: Any = compiled or nn.value_and_grad(model, microbatch_loss)
    limit = limit or RowLimit()
    total = Sums()
    logprobs: list[list[mx.array]] = []  # the parts of every microbatch

    def compute(batch: Microbatch) -> Sums:
        part, of_tokens = microbatch_gradient(loss_and_grad, model, batch, objective, total.gradients)
        logprobs[-1].append(of_tokens)
        return part

    own = [batch for batch in batches if batch.rank == world.rank]
    for index, batch in enumerate(own):
        logprobs.append([])
        for part in with_recovery(batch, compute, limit):
            total.add(part)
        if on_progress:
            on_progress(index + 1, len(own))
    found = [mx.concatenate(parts) for parts in logprobs]
    if world.size > 1:
        total, found = of_all_ranks(total, found, model, batches, world)
    gradients, result = total.result(model, objective)
    result.logprobs = found
    return gradients, result


def microbatch_gradient(
    loss_and_grad: Callable[..., Any],  # a LossAndGradient
    model: nn.Module,
    batch: Microbatch,
    objective: Objective,
    before: Gradients | None,
) -> tuple[Sums, mx.array]:
    """Forward and backward of one microbatch, evaluated: its sums and its logprobs (B, S).

    Its gradient is added in float32 to the gradient `before` it. No other name holds the microbatch's own
    gradient meanwhile, so that MLX can free each array once it is added.
    """
    with lean_layers(model):
        (loss, measured), gradients = loss_and_grad(model, batch, objective)
    gradients = tree_map(lambda gradient: gradient.astype(mx.float32), gradients)
    if before is not None:
        gradients = tree_map(mx.add, before, gradients)
    mx.eval(gradients, loss, *measured)
    cuts: list[int] = measured.cuts.tolist()
    divergence, entropy, balance = measured.totals.tolist()
    total_weight, most, capped = measured.importance.tolist()
    sums = Sums(
        gradients=gradients,
        loss=float(loss.item()),
        cuts=cuts,
        divergence=divergence,
        entropy=entropy,
        tokens=batch.token_count,
        balance=balance,
        importance=WeightStats(total_weight, most, capped, batch.token_count),
    )
    return sums, measured.logprobs


def of_all_ranks(
    own: Sums, logprobs: list[mx.array], model: nn.Module, batches: list[Microbatch], world: World
) -> tuple[Sums, list[mx.array]]:
    """Add up the sums of all ranks, and collect the logprobs of every microbatch; the same on each rank."""
    zeros = tree_map(lambda array: mx.zeros(array.shape), model.trainable_parameters())
    of_own = iter(logprobs)
    shown = [next(of_own) if batch.rank == world.rank else mx.zeros(batch.targets.shape) for batch in batches]
    gradients, shown = world.sum((own.gradients if own.gradients is not None else zeros, shown))
    total = Sums(gradients=gradients)
    for numbers in world.gather(own.numbers()):
        importance = WeightStats(**numbers.pop("importance"))
        total.add(Sums(gradients=gradients, importance=importance, **numbers))
    return total, shown


def global_norm(gradients: Gradients) -> float:
    """Euclidean norm of all gradients together, in float32."""
    squares = [total_of(gradient.square()) for gradient in flat(gradients).values()]
    return float(mx.sqrt(mx.stack(squares).sum()))
