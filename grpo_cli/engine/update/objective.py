"""The gradient of one step: forward, loss and backward over its microbatches.

The loss of a microbatch is Σ weight · token loss; adding the microbatches' gradients gives the
gradient of the whole step. Each microbatch is evaluated before the next begins, so memory is that of one.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from grpo_cli.config.schema import Config
from grpo_cli.cpu.exact_sums import total as total_of
from grpo_cli.cpu.swiglu import lean_activations
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine.grpo.entropy import token_entropies
from grpo_cli.engine.grpo.importance_sampling import Correction, Spread, summed
from grpo_cli.engine.grpo.kl import ESTIMATORS, corrected
from grpo_cli.engine.grpo.losses import LOSSES, Clip, sequence_log_ratio
from grpo_cli.engine.memory_estimate import LOGITS_AT_ONCE
from grpo_cli.engine.out_of_memory import RowLimit, in_parts
from grpo_cli.engine.rollout.prompt_cache import completion_outputs
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.chunked_logits import Head, chosen_logprobs
from grpo_cli.engine.update.shape_buckets import PaddedBatch
from grpo_cli.models.tree import flat

Gradients = Any  # a tree of arrays, shaped like the trainable parameters
Progress = Callable[[int, int], None]
Batch = Microbatch | PaddedBatch


@dataclass(frozen=True)
class Objective:
    """Everything the loss needs of the configuration."""

    loss_type: str
    temperature: float
    clip_low: float
    clip_high: float
    kl_coeff: float
    share_prefix: bool = True  # read each prompt once for its group
    level: str = "token"  # "token" | "sequence": what a ratio is of
    delta: float = 0.0
    kl_estimator: str = "k3"
    corrects_kl: bool = False  # by the importance ratio
    entropy_coeff: float = 0.0
    head: Head | None = None  # how to make logits in slices, where the model comes apart
    correction: Correction | None = None  # where another policy was sampled from
    checkpoint: bool = False  # compute layers again in the backward

    @property
    def clip(self) -> Clip:
        """Where ratios are cut."""
        return Clip(self.clip_low, self.clip_high, self.delta)

    @property
    def by_sequence(self) -> bool:
        """Whether a completion has one ratio."""
        return self.level == "sequence" or LOSSES[self.loss_type].by_sequence

    @staticmethod
    def of(
        config: Config, share_prefix: bool = True, head: Head | None = None, checkpoint: bool = False
    ) -> "Objective":
        """The configured objective; clip_eps_high = 0 means symmetric."""
        high = config.clip_eps_high or config.clip_eps
        return Objective(
            config.loss_type,
            config.temperature,
            config.clip_eps,
            high,
            config.kl_coeff,
            share_prefix,
            config.importance_sampling_level,
            config.delta,
            config.kl_estimator,
            config.use_bias_correction_kl,
            config.entropy_coeff,
            head,
            Correction.of(config),
            checkpoint,
        )


@dataclass
class UpdateResult:
    """What one update did."""

    loss: float
    grad_norm: float  # before clipping
    clip_ratio: float  # share of trained tokens whose ratio was clipped
    clip_ratio_low: float  # of them those below, with a negative advantage
    clip_ratio_high: float  # those above, with a positive advantage
    kl: float | None  # mean by token against the reference, as the loss has it; None without one
    logprobs: list[mx.array] = field(default_factory=list)  # (B, S) of every microbatch, before the update
    importance: Spread | None = None  # the weights of a correction for another sampler; None without one


def token_logprobs(
    model: nn.Module,
    batch: Microbatch,
    temperature: float,
    share_prefix: bool = True,
    head: Head | None = None,
) -> mx.array:
    """log π(target) at the sampling temperature: (B, S) float32."""
    with lean_activations(model):
        return token_scores(model, batch, temperature, share_prefix, head, entropy=False)[0]


def token_scores(
    model: nn.Module,
    batch: Batch,
    temperature: float,
    share_prefix: bool,
    head: Head | None,
    entropy: bool,
    checkpoint: bool = False,
) -> tuple[mx.array, mx.array | None]:
    """Logprobs of the targets and, with `entropy`, entropies, at the sampling temperature: (B, S) float32.

    With a `head`, logits are made of completion positions only, and in slices where they are too many to be
    there at once.
    """
    trunk = getattr(model, head.trunk) if head else None
    outputs = completion_outputs(
        model, batch.prompts, batch.rows, batch.inputs, share_prefix, trunk, checkpoint
    )
    if head is not None and batch.targets.size * head.vocabulary > LOGITS_AT_ONCE:
        scores = head.scores(model, outputs, batch.targets, temperature, entropy)
        return scores[0], scores[1] if entropy else None
    logits = head.logits(model, outputs) if head else outputs
    logits = logits.astype(mx.float32) / temperature  # (B, S, V)
    return chosen_logprobs(logits, batch.targets), token_entropies(logits) if entropy else None


class Measured(NamedTuple):
    """What a microbatch's forward gives besides its loss."""

    cuts: mx.array  # (3,) tokens whose ratio was clipped for whatever reason, below, and above
    divergence: mx.array  # Σ KL by token, a scalar
    logprobs: mx.array  # (B, S), 0 on padding
    importance: mx.array  # (3,) of correction.summed; 0 without a correction


Found = tuple[tuple[mx.array, Measured], Gradients]  # ((loss, measured), gradients) of a microbatch
LossAndGradient = Callable[[nn.Module, Microbatch, Objective], Found]


def microbatch_loss(model: nn.Module, batch: Batch, objective: Objective) -> tuple[mx.array, Measured]:
    """Weighted loss of a microbatch: Σ weight · (w · policy loss + kl_coeff · KL − entropy_coeff · entropy).

    w is 1 but where another policy was sampled from (importance_sampling.py).
    The token filter by entropy (`policy_mask`) takes the policy loss only, neither KL nor bonus, and no
    weight: the averages are those over all tokens (arXiv:2506.01939, eq. 5, and TRL). The mean entropy is
    averaged as the loss is, by its weights.
    """
    mask = batch.completion_mask
    logprobs, entropies = token_scores(
        model,
        batch,
        objective.temperature,
        objective.share_prefix,
        objective.head,
        entropy=objective.entropy_coeff != 0,
        checkpoint=objective.checkpoint,
    )
    logprobs = mx.where(mask, logprobs, 0.0)  # (B, S)
    old_logprobs = mx.stop_gradient(logprobs) if batch.old_is_current else batch.old_logprobs
    log_ratio = logprobs - old_logprobs  # (B, S)
    if objective.by_sequence:
        log_ratio = sequence_log_ratio(log_ratio, mask)  # (B, 1)
    token = LOSSES[objective.loss_type].token_loss(logprobs, log_ratio, batch.advantages, objective.clip)
    loss, divergence, importance = token.loss, mx.zeros_like(logprobs), mx.zeros(3)
    if objective.correction is not None and batch.sampler_logprobs is not None:
        log_weight = old_logprobs - batch.sampler_logprobs  # (B, S)
        weights = objective.correction.weights(log_weight, mask, objective.by_sequence)
        loss, importance = loss * weights.bounded, summed(weights, mask)
    if batch.policy_mask is not None:
        loss = loss * batch.policy_mask
    if batch.ref_logprobs is not None:
        ref_logprobs = mx.where(mask, batch.ref_logprobs, 0.0)
        divergence = ESTIMATORS[objective.kl_estimator](logprobs, ref_logprobs)
        if objective.corrects_kl:
            divergence = corrected(divergence, log_ratio)
        loss = loss + objective.kl_coeff * divergence
    if entropies is not None:
        loss = loss - objective.entropy_coeff * mx.where(mask, entropies, 0.0)
    cuts = mx.stack([(cut & mask).sum() for cut in (token.clipped, token.low, token.high)])
    return (batch.weights * mask * loss).sum(), Measured(cuts, divergence.sum(), logprobs, importance)


@dataclass
class Sums:
    """What is added up over the microbatches of a step."""

    gradients: Gradients = None  # those of all microbatches so far
    loss: float = 0.0
    cuts: list[int] = field(default_factory=lambda: [0, 0, 0])  # as Measured has them
    divergence: float = 0.0
    tokens: int = 0
    importance: Spread = field(default_factory=Spread)

    def add(self, part: "Sums") -> None:
        """Take in a microbatch, whose gradients hold the sum already."""
        self.gradients = part.gradients
        self.loss += part.loss
        self.cuts = [a + b for a, b in zip(self.cuts, part.cuts, strict=True)]
        self.divergence += part.divergence
        self.tokens += part.tokens
        self.importance.add(part.importance)

    def result(self, model: nn.Module, objective: Objective) -> tuple[Gradients, UpdateResult]:
        """The gradient, exactly 0 where no token was trained, and the numbers for the log."""
        gradients = self.gradients
        if gradients is None:
            gradients = tree_map(mx.zeros_like, model.trainable_parameters())
        tokens = max(self.tokens, 1)
        kl = self.divergence / tokens if objective.kl_coeff > 0 else None
        clipped, low, high = (cut / tokens for cut in self.cuts)
        result = UpdateResult(self.loss, global_norm(gradients), clipped, low, high, kl)
        result.importance = self.importance if objective.correction else None
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

    Each rank of a `world` computes its microbatches, and all get the sum. With no microbatch (every advantage
    was 0) the gradient is exactly 0. A microbatch that memory cannot hold is halved, as often as needed, and
    `limit` remembers it: the sum is the same. `compiled`: what computes a microbatch instead of the plain
    forward and backward (compiled_loss.py).
    """
    loss_and_grad: Any = compiled or nn.value_and_grad(model, microbatch_loss)
    limit = limit or RowLimit()
    total = Sums()
    logprobs: list[list[mx.array]] = []  # of every microbatch, in parts

    def compute(batch: Microbatch) -> Sums:
        with lean_activations(model):
            (loss, measured), gradients = loss_and_grad(model, batch, objective)
        gradients = tree_map(lambda gradient: gradient.astype(mx.float32), gradients)
        if total.gradients is not None:
            gradients = tree_map(mx.add, total.gradients, gradients)
        mx.eval(gradients, loss, *measured)
        logprobs[-1].append(measured.logprobs)
        cuts: list[int] = measured.cuts.tolist()
        total_weight, most, capped = measured.importance.tolist()
        divergence = float(measured.divergence.item())
        spread = Spread(total_weight, most, capped, batch.token_count)
        return Sums(gradients, float(loss.item()), cuts, divergence, batch.token_count, spread)

    own = [batch for batch in batches if batch.rank == world.rank]
    for index, batch in enumerate(own):
        logprobs.append([])
        for rows in batch.in_rows(limit.rows):
            for part in in_parts(rows, compute, Microbatch.halves, limit.lower):
                total.add(part)
        if on_progress:
            on_progress(index + 1, len(own))
    found = [mx.concatenate(parts) for parts in logprobs]
    if world.size > 1:
        total, found = of_all_ranks(total, found, model, batches, world)
    gradients, result = total.result(model, objective)
    result.logprobs = found
    return gradients, result


def of_all_ranks(
    own: Sums, logprobs: list[mx.array], model: nn.Module, batches: list[Microbatch], world: World
) -> tuple[Sums, list[mx.array]]:
    """What all ranks found together, the same on each: the sums, and the logprobs of every microbatch."""
    zeros = tree_map(lambda array: mx.zeros(array.shape), model.trainable_parameters())
    of_own = iter(logprobs)
    shown = [next(of_own) if batch.rank == world.rank else mx.zeros(batch.targets.shape) for batch in batches]
    gradients, shown = world.sum((own.gradients if own.gradients is not None else zeros, shown))
    numbers = world.gather([own.loss, own.cuts, own.divergence, own.tokens, asdict(own.importance)])
    total = Sums(gradients)
    for loss, cuts, divergence, tokens, spread in numbers:
        total.add(Sums(gradients, loss, cuts, divergence, tokens, Spread(**spread)))
    return total, shown


def global_norm(gradients: Gradients) -> float:
    """Euclidean norm of all gradients together, in float32."""
    squares = [total_of(gradient.square()) for gradient in flat(gradients).values()]
    return float(mx.sqrt(mx.stack(squares).sum()))
