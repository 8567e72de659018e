"""Quantisation measured on the user's model and machine: size, speed and accuracy for each number of bits.

    bits   MB     tokens/s  perplexity  same tokens  accuracy
    as is  269.0        94        15.0          –         38 %
    8      143.0        97        15.0        99 %        38 %

A CPU computes in float32, so there the measurement shows the model's size and accuracy, but no gain in speed.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_cli.doctor.checks.model.language import FEWEST_TOKENS, PROMPT, perplexity, policy_of, text_ids
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, ok, skipped
from grpo_cli.errors import GrpoError
from grpo_cli.models.model_files import weight_files

if TYPE_CHECKING:
    import mlx.nn as nn

    from grpo_cli.engine.rollout.prompts import Prompt
    from grpo_cli.models.load import Policy

BITS = (8, 6, 4, 3, 2)
GROUP_SIZE = 64
EXAMPLES = 32
ROWS, NEW_TOKENS = 4, 32  # of the timed rollout
# Tolerances for quantised weights, compared with the original ones.
WORSE_PERPLEXITY = 1.1  # ratio
LOST_EXAMPLES = 1  # of EXAMPLES
OTHER_TOKENS = 0.1  # share, used if neither perplexity nor accuracy can be measured


@dataclass(frozen=True, kw_only=True)
class BitsRow:
    """Measurements for one number of bits (0: the original weights). None: cannot be measured."""

    bits: int
    megabytes: float
    tokens_per_second: float
    perplexity: float | None  # on plain English; None for a vocabulary without English
    same_tokens: float  # share of TEXT's tokens after which the likeliest token is the same
    accuracy: float | None  # on EXAMPLES evaluation examples; None without a configuration

    def as_good_as(self, plain: "BitsRow") -> bool:
        """True if within the tolerances above of the original weights `plain`."""
        if self.perplexity is None and self.accuracy is None:
            return self.same_tokens >= 1 - OTHER_TOKENS
        reads = (self.perplexity or 0.0) <= WORSE_PERPLEXITY * (plain.perplexity or 0.0)
        return reads and (self.accuracy or 0.0) >= (plain.accuracy or 0.0) - LOST_EXAMPLES / EXAMPLES


def quantisation(context: Context) -> Iterator[Finding]:
    """Size, speed and accuracy for each number of bits, measured here (slow: only by name)."""
    policy = policy_of(context)
    if isinstance(policy, str):
        yield skipped(policy)
        return
    if policy.lora:
        yield skipped("adapters: name the model that they belong to")
        return
    prompts = examples(context, policy)
    plain = measured(context, policy, 0, stored_megabytes(context), prompts, None)
    likeliest = likeliest_tokens(policy)
    rows = [plain]
    for bits in BITS:
        model, megabytes = quantised(context.base_folder, bits)
        other = with_model(policy, model)
        rows.append(measured(context, other, bits, megabytes, prompts, likeliest))
        del model, other  # one copy at a time
    yield ok(told(rows, upcast()), rows=[asdict(row) for row in rows], smallest=smallest(rows))


def upcast() -> bool:
    """True if this machine computes in float32 for weights of any type."""
    from grpo_cli import device

    return device.prepare().upcast


def stored_megabytes(context: Context) -> float:
    """Size of the weights' files in MB (10⁶ bytes)."""

    return sum(path.stat().st_size for path in weight_files(context.base_folder)) / 1e6


def examples(context: Context, policy: "Policy") -> "list[Prompt]":
    """The configuration's first evaluation examples; empty without a configuration or its data."""
    if context.config is None:
        return []
    from grpo_cli.data.load import load_examples
    from grpo_cli.engine.rollout.prompts import evaluation_prompts

    config = context.config.model_copy(update={"eval_samples": EXAMPLES})
    try:
        return evaluation_prompts(load_examples(config, config.eval_split), policy, config)
    except GrpoError:
        return []


def quantised(folder: Path, bits: int) -> "tuple[nn.Module, float]":
    """A copy of the model with layers quantised to `bits`, ready to compute, and its size in MB."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx_lm.utils import dequantize_model

    from grpo_cli.models.load import load_model_folder
    from grpo_cli.models.tree import flat

    model, config = load_model_folder(folder)
    if "quantization" in config:
        model = dequantize_model(model)
    nn.quantize(model, GROUP_SIZE, bits, class_predicate=lambda _, layer: divisible(layer))
    megabytes = sum(array.nbytes for array in flat(model.parameters()).values()) / 1e6
    if upcast():
        model = dequantize_model(model)
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model, megabytes


def divisible(layer: Any) -> bool:
    """True if a layer can be quantised: its rows divide into whole groups."""
    return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % GROUP_SIZE == 0


def with_model(policy: "Policy", model: "nn.Module") -> "Policy":
    """The policy with `model` in place of its own."""
    from dataclasses import replace

    return replace(policy, model=model)


def measured(
    context: Context,
    policy: "Policy",
    bits: int,
    megabytes: float,
    prompts: "list[Prompt]",
    likeliest: list[int] | None,
) -> BitsRow:
    """All measurements for one number of bits. `likeliest`: the original weights' likeliest tokens (T,)."""
    is_language = policy.tokenizer.vocab_size >= FEWEST_TOKENS
    same = 1.0
    if likeliest is not None:
        pairs = zip(likeliest, likeliest_tokens(policy), strict=True)
        same = sum(a == b for a, b in pairs) / len(likeliest)
    return BitsRow(
        bits=bits,
        megabytes=megabytes,
        tokens_per_second=rollout_speed(policy, prompts),
        perplexity=perplexity(policy.model, text_ids(policy.tokenizer)) if is_language else None,
        same_tokens=same,
        accuracy=accuracy(context, policy, prompts),
    )


def likeliest_tokens(policy: "Policy") -> list[int]:
    """The likeliest next token after each token of TEXT (T,)."""
    import mlx.core as mx

    ids = mx.array(text_ids(policy.tokenizer))  # (T,)
    tokens: Any = mx.argmax(policy.model(ids[None])[0], axis=-1).tolist()
    return list(tokens)


def rollout_speed(policy: "Policy", prompts: "list[Prompt]") -> float:
    """Tokens per second of a small rollout: the best of two, after a warm-up."""
    from grpo_cli.engine.rollout.generate import generate
    from grpo_cli.engine.rollout.sampling import Sampling

    ids = prompts[0].ids if prompts else text_ids(policy.tokenizer, PROMPT)
    generate(policy, [ids], ROWS, Sampling(max_new_tokens=2))
    speeds = []
    for _ in range(2):
        started = time.perf_counter()
        (rollouts,) = generate(policy, [ids], ROWS, Sampling(max_new_tokens=NEW_TOKENS))
        tokens = sum(len(rollout.token_ids) for rollout in rollouts)
        speeds.append(tokens / (time.perf_counter() - started))
    return max(speeds)


def accuracy(context: Context, policy: "Policy", prompts: "list[Prompt]") -> float | None:
    """Share of examples answered correctly; None without examples."""
    if context.config is None or not prompts:
        return None
    from grpo_cli.engine.evaluation.evaluate import evaluate
    from grpo_cli.engine.rollout.sampling import Sampling

    sampling = Sampling.for_evaluation(context.config)
    options = {"prefix": context.config.completion_prefix, "strip_thinking": context.config.strip_thinking}
    return evaluate(policy, prompts, sampling, EXAMPLES, **options).accuracy  # type: ignore[arg-type]


def smallest(rows: list[BitsRow]) -> int | None:
    """The fewest bits within the tolerances; None if no number of bits is."""
    good = [row.bits for row in rows[1:] if row.as_good_as(rows[0])]
    return min(good, default=None)


def told(rows: list[BitsRow], in_float32: bool) -> str:
    """The table of measurements, and the recommendation."""
    head = f"{'bits':<6}{'MB':>9}{'tokens/s':>10}{'perplexity':>12}{'same tokens':>13}{'accuracy':>10}"
    lines = [f"group size {GROUP_SIZE}", head]
    for row in rows:
        reading = "–" if row.perplexity is None else f"{row.perplexity:,.1f}"
        right = "–" if row.accuracy is None else f"{row.accuracy:.0%}"
        same = f"{row.same_tokens:.0%}" if row.bits else "–"
        lines.append(
            f"{row.bits or 'as is':<6}{row.megabytes:>9.1f}{row.tokens_per_second:>10.0f}"
            f"{reading:>12}{same:>13}{right:>10}"
        )
    if in_float32:
        lines.append(
            "this CPU computes in float32 for any number of bits: quantizing saves disk space here, not "
            "time or memory"
        )
    return "\n".join([*lines, recommendation(rows)])


def recommendation(rows: list[BitsRow]) -> str:
    """The recommended number of bits, with the tolerances."""
    plain = rows[0]
    if plain.perplexity is None and plain.accuracy is None:
        within = f"{1 - OTHER_TOKENS:.0%} of the tokens the same"
    else:
        limits = [f"perplexity within {WORSE_PERPLEXITY - 1:.0%}"] if plain.perplexity is not None else []
        limits += (
            [f"at most {LOST_EXAMPLES} of {EXAMPLES} answers lost"] if plain.accuracy is not None else []
        )
        within = " and ".join(limits)
    bits = smallest(rows)
    if bits is None:
        return f"no number of bits is as good as the original weights ({within}): leave them as they are"
    return (
        f"the fewest bits as good as the original weights: {bits} ({within}): "
        f"`grpo convert … --quantize --bits {bits}`"
    )
