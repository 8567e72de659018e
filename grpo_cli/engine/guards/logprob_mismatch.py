"""Check that sampler and loss agree: their logprobs of the same tokens are compared.

On policy the ratio π_loss / π_sampler of every token is 1. If it is not, the gradient belongs to another
distribution and training fails silently. Causes are a different temperature, a wrong KV cache, or dropout.
The forward of the first update provides the logprobs, so the comparison costs nothing.

    float32, one device:   |Δ logp| = 0.00002      a wrong temperature (0.9 for 1): 0.1 on average

The tolerance follows from the precision ε of a number (2⁻⁷ in bfloat16, 2⁻¹⁰ in float16). Logits of 16 to 32
are stored in steps of 16 ε. Two forwards with a different order of summation round to neighboring steps. The
errors of the chosen logit and of the normalizer, each uniform within a step, then differ by 16 ε · 0.47 < 8 ε
on average. Single tokens whose hidden state is near a kink differ by several steps: 8 · 16 ε are allowed.
Division by a temperature below 1 enlarges all of these.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.chunked_logits import chosen_logprobs
from grpo_cli.errors import TrainingError
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.words import plural

FLOAT32_TOLERANCE = 1e-3  # 50 times the difference of two forwards of 30 layers
MEAN_STEPS, MOST_STEPS = 8, 128  # in units of ε, see the module's docstring
EPSILON = {mx.bfloat16: 2.0**-7, mx.float16: 2.0**-10}
TENSOR_FLOAT32 = 2.0**-10  # precision of float32 products in a GPU's matrix units (MLX_ENABLE_TF32)


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """|logp of the loss − logp of the sampler| over the trained tokens of a step."""

    mean: float
    most: float
    tokens: int
    place: int  # index in its completion of the token that differs most
    token_id: int  # that token
    sampled: float  # its logprob in the sampler
    trained: float  # its logprob in the loss
    batch: int = 0  # index of its microbatch
    row: int = 0  # its row in the microbatch


@dataclass(frozen=True)
class Tolerance:
    """Maximum deviation allowed for a precision."""

    mean: float
    most: float
    precision: str


def tolerance(arrays: list[mx.array], temperature: float, exact_float32: bool) -> Tolerance:
    """The tolerance for the precision of the weights. `exact_float32`: products are not rounded to TF32."""
    scale = 1.0 / min(temperature, 1.0)
    halves = [(EPSILON[array.dtype], str(array.dtype)) for array in arrays if array.dtype in EPSILON]
    if not halves and exact_float32:
        return Tolerance(FLOAT32_TOLERANCE * scale, FLOAT32_TOLERANCE * scale, "float32")
    epsilon, name = max(halves, default=(TENSOR_FLOAT32, "float32 on this device"))
    return Tolerance(MEAN_STEPS * epsilon * scale, MOST_STEPS * epsilon * scale, name.rpartition(".")[2])


def measure(batches: list[Microbatch], logprobs: list[mx.array]) -> Deviation | None:
    """Compare the loss's logprobs, (B, S) of every microbatch, with the sampler's; None without tokens."""
    found = [_measure(batch, trained) for batch, trained in zip(batches, logprobs, strict=True)]
    if not found:
        return None
    tokens = sum(one.tokens for one in found)
    index, worst = max(enumerate(found), key=lambda item: item[1].most)
    mean = sum(one.mean * one.tokens for one in found) / tokens
    return replace(worst, mean=mean, tokens=tokens, batch=index)


def _measure(batch: Microbatch, trained: mx.array) -> Deviation:
    width = batch.targets.shape[1]
    rows = [rollout.logprobs + [0.0] * (width - len(rollout.logprobs)) for rollout in batch.rollouts]
    sampled = mx.array(rows, dtype=mx.float32)  # (B, S)
    gaps = mx.where(batch.loss_mask, mx.abs(trained - sampled), 0.0)
    highest: Any = gaps.argmax().item()
    row, place = divmod(highest, width)
    tokens = batch.token_count
    total: Any = gaps.sum().item()
    most: Any = gaps[row, place].item()
    logprob: Any = trained[row, place].item()
    return Deviation(
        mean=total / tokens,
        most=most,
        tokens=tokens,
        place=place,
        token_id=batch.rollouts[row].token_ids[place],
        sampled=batch.rollouts[row].logprobs[place],
        trained=logprob,
        row=row,
    )


def cause(model: Any, batches: list[Microbatch], deviation: Deviation, temperature: float) -> str:
    """Find which of the two is wrong, by a forward over the whole sequence of the token that differs most."""
    batch = batches[deviation.batch]
    rollout = batch.rollouts[deviation.row]
    prompt = batch.prompts[batch.rows[deviation.row]]
    ids = mx.array([prompt + rollout.token_ids])

    def alone() -> float:
        logits = model(ids)[:, len(prompt) - 1 + deviation.place].astype(mx.float32) / temperature
        found: Any = chosen_logprobs(logits, mx.array([deviation.token_id])).item()
        return float(found)

    whole, again = alone(), alone()
    apart = abs(deviation.trained - deviation.sampled)
    if abs(whole - again) > apart / 100:
        return (
            "something in the model is random (dropout): one sequence gave its logprob as "
            f"{whole:.4f} and then as {again:.4f}"
        )
    words = f"a forward over the whole sequence, alone and without a cache, gives {whole:.4f}"
    if abs(whole - deviation.trained) < apart / 4:
        return f"sampling is off, with its cache: {words}, as the update does"
    if abs(whole - deviation.sampled) < apart / 4:
        return f"the update is off, because of how it batches rows: {words}, as sampling did"
    return f"{words}, which matches neither: with a cache and in a batch the model computes something else"


def check(deviation: Deviation, allowed: Tolerance, tokenizer: Tokenizer, cause: Callable[[], str]) -> None:
    """Raise TrainingError if sampler and loss differ by more than their precision explains.

    `cause`: finds which of the two is wrong; called only before raising.
    """
    if deviation.mean <= allowed.mean and deviation.most <= allowed.most:
        return
    text = tokenizer.decode([deviation.token_id])
    raise TrainingError(
        f"The sampler and the loss disagree: over {plural(deviation.tokens, 'token')} logprobs differ by "
        f"{deviation.mean:.2g} on average and {deviation.most:.2g} at most, but {allowed.precision} "
        f"explains only {allowed.mean:.2g} and {allowed.most:.2g}. Largest at token "
        f"{deviation.place + 1} of a completion, {text!r} ({deviation.token_id}): {deviation.sampled:.4f} "
        f"when it was sampled, {deviation.trained:.4f} in the update, of the same weights; {cause()}",
        "the update was not applied, because it would train another policy. "
        '`dtype = "float32"` excludes rounding; if the error stays, choose another model, and report it '
        "with `grpo doctor --report FILE`",
    )
