"""Compute each prompt's KV cache once for all of its completions, in sampling and in training.

    cache = read_prompts(model, [ab, c])     # a KV cache of two rows, left-padded to one length
    keep(cache, [0, 0, 0, 1, 1, 1])          # three completions of each: rows are repeated
    logits = model(inputs, cache=cache)      # only the completions' positions are computed

The cache is built from differentiable operations, so in training the same three lines carry the gradient back
through the shared prompt. Forward and backward of the prompt are computed once per group instead of once per
completion, and logits are computed for completion tokens only.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from grpo_cli.engine.update.activation_checkpoint import RepeatedRows, checkpointed
from grpo_cli.models.batch_plan import RowsTogether
from grpo_cli.models.caches import arrays_of, batch_form, copied, forget_padding, keep_rows


@dataclass(frozen=True)
class PaddedPrompts:
    """Prompts as arrays, for traced functions: all but the last token of each."""

    ids: mx.array  # (P, T) left-padded
    padding: mx.array  # (P,)


def read_padded(model: nn.Module, prompts: PaddedPrompts) -> list[Any]:
    """`read_prompts` for prompts as arrays, and for models for which `has_only_keys` is true."""
    cache = batch_form(make_prompt_cache(model), [0] * len(prompts.ids), for_gradients=True)
    for layer in cache:
        layer.prepare(left_padding=prompts.padding)
    if prompts.ids.shape[1]:
        model(prompts.ids, cache=cache)
    return cache


def read_prompts(
    model: nn.Module,
    prompts: list[list[int]],
    chunk: int | None = None,
    together: RowsTogether = "mixed",
    for_gradients: bool = False,
) -> list[Any]:
    """The cache of all but the last token of every prompt.

    `chunk`: evaluate every so many columns, which bounds memory if no gradient is needed. `together`: the way
    that is correct for the model (batch_plan.py): with "equal" and "single" all prompts have one length, and
    other rows cannot join. Raises NoBatchForm for a way that a cache of the model does not know.
    """
    if together != "joined":
        return read_at_once(model, prompts, chunk, together, for_gradients)
    cache: list[Any] = []
    places = []
    for length in sorted({len(prompt) for prompt in prompts}):
        own = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
        read = read_at_once(model, [prompts[place] for place in own], chunk, together, for_gradients)
        if cache:
            join(cache, read)
        cache = cache or read
        places += own
    if places != sorted(places):
        keep(cache, [places.index(place) for place in range(len(prompts))])
    return cache


def read_at_once(
    model: nn.Module, prompts: list[list[int]], chunk: int | None, together: RowsTogether, for_gradients: bool
) -> list[Any]:
    """`read_prompts` in one batch: left-padded to one length, where lengths differ."""
    length = max(len(prompt) for prompt in prompts) - 1
    padding = [length - (len(prompt) - 1) for prompt in prompts]
    cache = make_prompt_cache(model)
    if together in ("mixed", "joined"):
        cache = batch_form(cache, padding, for_gradients)
    ids = mx.array([[0] * pad + prompt[:-1] for pad, prompt in zip(padding, prompts, strict=True)])  # (P, T)
    for start in range(0, length, chunk or max(length, 1)):
        # The logits are not used, so MLX, which is lazy, never computes them.
        model(ids[:, start : start + (chunk or length)], cache=cache)
        if chunk:
            mx.eval(arrays_of(cache))
    forget_padding(cache)
    return cache


def keep(cache: list[Any], rows: list[int] | mx.array) -> None:
    """Keep these rows of the cache, in this order; a row named twice is repeated."""
    indices = mx.array(rows)
    for layer in cache:
        keep_rows(layer, indices)


def select(cache: list[Any], rows: list[int]) -> list[Any]:
    """A new cache with these rows of `cache`, which stays unchanged."""
    chosen = [copied(layer) for layer in cache]
    keep(chosen, rows)  # makes new arrays
    return chosen


def join(cache: list[Any], other: list[Any]) -> None:
    """Append the rows of another cache; shorter rows are left-padded."""
    for layer, added in zip(cache, other, strict=True):
        layer.extend(added)


def completion_outputs(
    model: nn.Module,
    prompts: list[list[int]] | PaddedPrompts,
    rows: list[int] | mx.array,
    inputs: mx.array,
    *,
    share_prefix: bool,
    together: RowsTogether = "mixed",
    part: nn.Module | None = None,
    recompute: bool = False,
) -> mx.array:
    """Output of the model, (B, S, V), or of a `part` (its trunk), (B, S, H), for each of `inputs` (B, S).

    Row b continues prompt rows[b]; the first column of inputs is the prompt's last token. Without
    `share_prefix` every row computes its prompt itself, which works for all models; prompts and rows are
    lists then. `together`: the way of reading shared prompts. `recompute`: recompute layers in the backward.
    """
    forward: Any = part or model
    with checkpointed(model) if recompute else nullcontext():
        if isinstance(prompts, PaddedPrompts) or share_prefix:
            if isinstance(prompts, PaddedPrompts):
                cache = read_padded(model, prompts)
            else:
                cache = read_prompts(model, prompts, together=together, for_gradients=True)
            if recompute:
                cache = [RepeatedRows(layer, mx.array(rows)) for layer in cache]
            else:
                keep(cache, rows)
            return forward(inputs, cache=cache)
        return whole_sequence_outputs(forward, [prompts[row] for row in rows], inputs)


def whole_sequence_outputs(forward: Any, prompts: list[list[int]], inputs: mx.array) -> mx.array:
    """`completion_outputs` by one forward over prompt and completion together, without a cache.

    Rows are right-padded, so each row's completion begins where its prompt ends.
    """
    width = inputs.shape[1]
    heads = [len(prompt) - 1 for prompt in prompts]
    end = max(heads) + width
    ids = mx.zeros((len(prompts), end), dtype=mx.int32)
    for row, prompt in enumerate(prompts):
        ids[row, : heads[row]] = mx.array(prompt[:-1], dtype=mx.int32)
        ids[row, heads[row] : heads[row] + width] = inputs[row]
    return mx.take_along_axis(forward(ids), completion_places(prompts, width)[..., None], axis=1)


def completion_places(prompts: list[list[int]], width: int) -> mx.array:
    """Columns of each row's completion inputs behind its prompt: (B, S)."""
    return mx.array([len(prompt) - 1 for prompt in prompts])[:, None] + mx.arange(width)[None]
