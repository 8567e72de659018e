"""Test of a model before training or sampling: the fastest way of batching rows that is correct for it.

    policy.plan = training_plan(policy.model, share_prefix=True)      # raises ModelError if none is correct

Each way completes two short prompts of different lengths. The results (logprobs, and in training the
gradient) are compared with those of single sequences, computed whole and without a KV cache. Some models of
mlx-lm give wrong results if prompts are left-padded to one length:

    gemma2         fewer key heads than heads: the mask of one row is applied to the heads of another
    gpt_bigcode    the mask of several rows does not fit its scores
    ministral3     scales queries by the logarithm of their position, which padding makes negative: NaN
    afm7           its last layers rotate keys by column instead of position

Others compute something else with their cache than without; models/repairs.py mends those of mlx-lm that are
known. If no way is correct, ModelError reports the differences before anything is trained. The tolerance
follows from the precision of the weights, as in logprob_mismatch.py.

The prompts are shorter than the sliding windows of real models. That a plan found within a window is right
beyond it was tried for every type with windows (tests/bench/RESULTS.md), and logprob_mismatch.py compares
sampler and update on the run's own rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from grpo_cli import device
from grpo_cli.engine.failures import is_allocation_failure
from grpo_cli.engine.guards.frozen_weights import norm
from grpo_cli.engine.guards.logprob_mismatch import tolerance
from grpo_cli.engine.rollout.prompt_cache import keep, read_prompts
from grpo_cli.engine.update.activation_checkpoint import replaced
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.chunked_logits import Head, chosen_logprobs
from grpo_cli.engine.update.forward import ForwardPlan, token_scores
from grpo_cli.errors import ModelError
from grpo_cli.models.batch_plan import BatchPlan, RowsTogether
from grpo_cli.models.evaluating import evaluating
from grpo_cli.models.lean_layers import lean_layers
from grpo_cli.models.load import unread_model
from grpo_cli.models.tree import flat

LENGTHS = (9, 4)  # tokens of the prompts
PROBE_VOCABULARY = 40  # ids that every vocabulary has
ROWS = (0, 0, 1)  # three rows: no model has three heads, so a mask applied to heads by mistake shows
WAYS: tuple[RowsTogether, ...] = ("mixed", "joined", "equal", "single")  # ways of sampling, the fastest first
RANDOM = 0.01  # logprob difference above what a changing order of summation explains
# Ways of training, the fastest first; without shared prompts from the third on.
TRAINED = (
    BatchPlan(),
    BatchPlan(shared="joined"),
    BatchPlan(share_prefix=False),
    BatchPlan(share_prefix=False, trained="single"),
)
NEW_TOKENS = 3
CHUNK = 5  # the longer prompt is read in two parts, as prompts beyond the sampler's chunk are
GRADIENT_NUMBERS = 1 << 20  # of the smallest arrays, at least one: a whole gradient may not fit into memory
EXACT, ROUNDED = 1e-2, 0.25  # gradient tolerance relative to its norm: in float32, in half precision
# Models that crash the process instead of raising, so they cannot be tested.
DAMAGING = {"phi3small": "its block-sparse attention writes outside of MLX's arrays (seen with mlx 0.32.4)"}
# Exceptions of models that were not written for a batch.
FORWARD_ERRORS = (ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError)

Arrays = dict[str, mx.array]
Logprobs = Callable[[], mx.array]


class Outcome(NamedTuple):
    """Result of testing one way of batching against single rows."""

    is_right: bool
    words: str  # the differences, or the exception


def training_plan(
    model: nn.Module, share_prefix: bool, head: Head | None = None, recompute: bool = False
) -> BatchPlan:
    """The fastest plan that is correct in sampling and training. Raises ModelError if there is none.

    `share_prefix`: False excludes plans with shared prompts. `head`, `recompute`: those of the updates.
    """
    check_kind(model)
    batch = probe_batch()
    expected, gradient = reference_with_gradient(model, batch)
    plan = sampling_plan(model, expected)
    tried = {}
    for way in TRAINED if share_prefix else TRAINED[2:]:
        rows = batch.in_rows(1 if way.trained == "single" else None)

        def logprobs(way: BatchPlan = way, rows: Sequence[Microbatch] = rows) -> mx.array:
            forward = ForwardPlan(way.share_prefix, head, recompute, way.shared)
            return mx.concatenate(
                [token_scores(model, part, 1.0, forward, entropy=False)[0] for part in rows]
            )

        outcome = compared(model, logprobs, expected, gradient)
        if outcome.is_right:
            return replace(way, sampled=plan.sampled)
        tried[f"{way.shared} shared prompts" if way.share_prefix else f"{way.trained} rows"] = outcome.words
    raise refusal(model, "the update", tried, expected, reference(model, batch))


def check_kind(model: nn.Module) -> None:
    """Raise ModelError if the model's class is unsupported. Needs no weights and computes nothing."""
    if name_of(model) in DAMAGING and device.prepare().kind == "cpu":
        raise ModelError(
            f"{name_of(model)} is not run on a CPU: {DAMAGING[name_of(model)]}",
            "choose another model, or a machine with Metal or CUDA",
            trouble="model-forward",
        )


def sampling_plan(model: nn.Module, expected: mx.array | None = None) -> BatchPlan:
    """The fastest correct way of sampling. Raises ModelError if there is none.

    `expected`: the result of `reference`, if it was computed before.
    """
    check_kind(model)
    batch = probe_batch()
    expected = reference(model, batch) if expected is None else expected
    tried = {}
    for way in WAYS:

        def logprobs(way: RowsTogether = way) -> mx.array:
            return cached(model, batch, way)

        outcome = compared(model, logprobs, expected, None)
        if outcome.is_right:
            return BatchPlan(sampled=way)
        tried[f"{way} rows"] = outcome.words
    raise refusal(model, "sampling", tried, expected, reference(model, batch))


def refusal(
    model: nn.Module, where: str, tried: dict[str, str], expected: mx.array, again: mx.array
) -> ModelError:
    """The error for a model without a correct way. `expected`, `again`: two results of the same forward."""
    change: Any = mx.abs(expected - again).max().item()
    told = "; ".join(f"{way}: {words}" for way, words in tried.items())
    if change > RANDOM:
        told = f"something in it is random (dropout): the same forward twice differs by {change:.2g}; {told}"
    return ModelError(
        f"{name_of(model)} cannot be tuned here: in {where} its logprobs differ from those of single rows "
        f"read without a cache ({told})",
        "choose another model; llama, qwen2, qwen3, gemma3, mistral and smollm3 are correct. mlx-lm's class "
        "of this model gives different results with its cache or in a batch",
        trouble="model-forward",
    )


def name_of(model: nn.Module) -> str:
    """The model_type of config.json, which is the name of mlx-lm's module."""
    return type(model).__module__.rpartition(".")[2]


# --- computation ------------------------------------------------------------------------------------


def probe_batch() -> Microbatch:
    """Three completions of two prompts. The first two are the same, which saves a forward."""
    ids = [[1 + (7 + 11 * place * (row + 3)) % PROBE_VOCABULARY for place in range(13)] for row in range(3)]
    targets = mx.array([ids[row][:NEW_TOKENS] for row in ROWS], dtype=mx.int32)
    prompts = [ids[1 + row][-length:] for row, length in enumerate(LENGTHS)]
    return batch_of(prompts, list(ROWS), targets)


def batch_of(prompts: list[list[int]], rows: list[int], targets: mx.array) -> Microbatch:
    """A microbatch of these tokens (B, S) whose forward is all that is looked at."""
    zeros = mx.zeros(targets.shape)
    mask = mx.ones(targets.shape, dtype=mx.bool_)
    return Microbatch(
        prompts=prompts,
        rows=rows,
        targets=targets,
        loss_mask=mask,
        old_logprobs=zeros,
        advantages=zeros[:, :1],
        weights=zeros[:, :1],
    )


def reference(model: Any, batch: Microbatch) -> mx.array:
    """Logprobs (B, S) of single sequences without a cache. Raises ModelError if the model's forward fails."""
    found: dict[int, mx.array] = {}
    for row, targets in zip(batch.rows, batch.targets, strict=True):
        if row in found:
            continue
        ids = mx.concatenate([mx.array(batch.prompts[row], dtype=mx.int32), targets])
        try:
            logits = model(ids[None])[:, len(batch.prompts[row]) - 1 : -1].astype(mx.float32)
        except FORWARD_ERRORS as error:
            if is_allocation_failure(error):
                raise
            raise ModelError(
                f"{name_of(model)} cannot read a sequence: {type(error).__name__}: {str(error)[:200]}",
                "config.json may have fields that mlx-lm's class of this model does not expect",
                trouble="model-forward",
            ) from error
        found[row] = chosen_logprobs(logits, targets[None])
    return mx.concatenate([found[row] for row in batch.rows])


def reference_with_gradient(model: Any, batch: Microbatch) -> tuple[mx.array, Arrays]:
    """The reference, and its gradient as `with_gradient`. Raises ModelError for a model without gradient."""
    try:
        return with_gradient(model, lambda: reference(model, batch))
    except FORWARD_ERRORS as error:
        if is_allocation_failure(error):
            raise
        raise ModelError(
            f"{name_of(model)} has no gradient: {type(error).__name__}: {str(error)[:200]}",
            "choose another model: mlx-lm's class of this one was written for sampling only",
            trouble="model-forward",
        ) from error


def cached(model: Any, batch: Microbatch, way: RowsTogether) -> mx.array:
    """Logprobs (B, S) as sampling computes them: token by token, with a KV cache."""
    runs = {"equal": [[0, 1], [2]], "single": [[0], [1], [2]]}.get(way, [[0, 1, 2]])
    found = []
    with evaluating(model):
        for rows in runs:
            some = batch.part(rows[0], rows[-1] + 1)
            cache = read_prompts(model, some.prompts, CHUNK, way)
            keep(cache, some.rows)
            logits = [model(some.inputs[:, at : at + 1], cache=cache) for at in range(NEW_TOKENS)]
            found.append(chosen_logprobs(mx.concatenate(logits, axis=1).astype(mx.float32), some.targets))
    return mx.concatenate(found)


def with_gradient(model: nn.Module, logprobs: Logprobs) -> tuple[mx.array, Arrays]:
    """The logprobs, and the gradient of their sum by about a million of the trainable numbers."""
    trained = sorted(flat(model.trainable_parameters()).items(), key=lambda item: item[1].size)
    chosen: Arrays = {}
    numbers = 0
    for name, array in trained:
        numbers += array.size
        if chosen and numbers > GRADIENT_NUMBERS:
            break
        chosen[name] = array

    if not chosen:  # nothing is trained: the run says so after its first update
        return logprobs(), {}

    def loss(weights: Arrays) -> tuple[mx.array, mx.array]:
        with replaced(model, weights), lean_layers(model):
            found = logprobs()
        return found.sum(), found

    (_, value), gradient = mx.value_and_grad(loss)(chosen)
    mx.eval(value, gradient)
    return value, gradient


# --- comparison -------------------------------------------------------------------------------------------


def compared(model: nn.Module, logprobs: Logprobs, expected: mx.array, gradient: Arrays | None) -> Outcome:
    """Compare the logprobs of one way, and with `gradient` its gradient, with those of single rows."""
    arrays = list(flat(model.parameters()).values())
    allowed = tolerance(arrays, 1.0, device.prepare().kind == "cpu")
    try:
        found, slope = (logprobs(), None) if gradient is None else with_gradient(model, logprobs)
        gaps = mx.abs(found - expected)
        mean: Any = gaps.mean().item()
        most: Any = gaps.max().item()
        words = f"off by {most:.2g}"
        if not (mean <= allowed.mean and most <= allowed.most):
            return Outcome(False, words)
        if gradient is None or slope is None:
            return Outcome(True, words)
        apart = distance(slope, gradient)
    except FORWARD_ERRORS as error:
        if is_allocation_failure(error):
            raise
        return Outcome(
            False, f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
        )
    enough = EXACT if allowed.precision == "float32" else ROUNDED
    return Outcome(apart <= enough, f"{words}, its gradient by {apart:.2g} of its norm")


def distance(found: Arrays, expected: Arrays) -> float:
    """‖found − expected‖ / ‖expected‖; NaN where one is NaN."""
    size = norm(expected)
    return norm({name: found[name] - expected[name] for name in expected}) / (size or 1.0)


def check_unread(name: str) -> None:
    """Raise ModelError for an unsupported model class, from config.json alone and before weights are loaded.

    A repository that is not downloaded yet is checked after its download.
    """
    model = unread_model(name)
    if model is not None:
        check_kind(model)
