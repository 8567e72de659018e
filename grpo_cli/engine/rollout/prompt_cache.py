"""Compute each prompt's KV cache once for all of its completions, in sampling and in training.

    cache = read_prompts(model, [ab, c])     # a KV cache of two rows, left-padded to one length
    keep(cache, [0, 0, 0, 1, 1, 1])          # three completions of each: rows are repeated
    logits = model(inputs, cache=cache)      # only the completions' positions are computed

The cache is built from differentiable operations, so in training the same three lines carry the gradient back
through the shared prompt. Forward and backward of the prompt are computed once per group instead of once per
completion, and logits are computed for completion tokens only.
"""

from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import BatchKVCache, KVCache, RotatingKVCache, make_prompt_cache

from grpo_cli.engine.update.activation_checkpoint import RepeatedRows, checkpointed
from grpo_cli.errors import ModelError

BATCHING = (KVCache, RotatingKVCache)  # cache types with a batch form that handles left padding


@dataclass(frozen=True)
class PaddedPrompts:
    """Prompts as arrays, for traced functions: all but the last token of each."""

    ids: mx.array  # (P, T) left-padded
    padding: mx.array  # (P,)


class TracedCache(BatchKVCache):
    """A batch cache that can be traced: `filter` reads no values, so it removes no common padding."""

    def filter(self, batch_indices: mx.array) -> None:
        """Keep these rows, in this order."""
        if self.keys is not None:
            self.keys, self.values = self.keys[batch_indices], self.values[batch_indices]
        self.offset, self.left_padding = self.offset[batch_indices], self.left_padding[batch_indices]


def read_padded(model: nn.Module, prompts: PaddedPrompts) -> list[Any]:
    """`read_prompts` for prompts as arrays, and for models for which `carries_gradients` is true."""
    cache: list[Any] = [TracedCache([0] * len(prompts.ids)) for _ in make_prompt_cache(model)]
    for layer in cache:
        layer.prepare(left_padding=prompts.padding)
    if prompts.ids.shape[1]:
        model(prompts.ids, cache=cache)
    return cache


def read_prompts(
    model: nn.Module, prompts: list[list[int]], chunk: int | None = None, padded: bool = True
) -> list[Any]:
    """The KV cache of all but the last token of every prompt.

    `chunk`: evaluate every so many columns, which bounds memory if no gradient is needed. `padded=False` is
    for models that are wrong with left padding (forward_probe.py): all prompts have one length and the cache
    is of the model's own type. Other rows cannot join such a cache.
    """
    length = max(len(prompt) for prompt in prompts) - 1
    padding = [length - (len(prompt) - 1) for prompt in prompts]
    cache = batch_cache(model, padding) if padded else own_cache(model)
    ids = mx.array([[0] * pad + prompt[:-1] for pad, prompt in zip(padding, prompts, strict=True)])  # (P, T)
    for start in range(0, length, chunk or max(length, 1)):
        # The logits are not used, so MLX, which is lazy, never computes them.
        model(ids[:, start : start + (chunk or length)], cache=cache)
        if chunk:
            mx.eval([layer.state for layer in cache])
    return cache


def read_for_gradients(model: nn.Module, prompts: list[list[int]] | PaddedPrompts) -> list[Any]:
    """The KV cache of all but the last token of every prompt, given as lists or as padded arrays."""
    if isinstance(prompts, PaddedPrompts):
        return read_padded(model, prompts)
    return read_prompts(model, prompts)


def keep(cache: list[Any], rows: list[int] | mx.array) -> None:
    """Keep these rows of the cache, in this order; a row named twice is repeated."""
    indices = mx.array(rows)
    for layer in cache:
        if not isinstance(layer, BATCHING):
            layer.filter(indices)
        elif layer.keys is not None:  # the model's own type, which has no paddings to filter
            layer.keys, layer.values = layer.keys[indices], layer.values[indices]


def select(cache: list[Any], rows: list[int]) -> list[Any]:
    """A new cache with these rows of `cache`, which stays unchanged."""
    chosen = [copy(layer) for layer in cache]
    keep(chosen, rows)  # makes new arrays
    return chosen


def join(cache: list[Any], other: list[Any]) -> None:
    """Append the rows of another cache; shorter rows are left-padded."""
    for layer, added in zip(cache, other, strict=True):
        layer.extend(added)


def batch_cache(model: nn.Module, padding: list[int]) -> list[Any]:
    """An empty cache with one row per prompt, of the batch form of each layer's cache type.

    Raises ModelError for a cache type without a usable batch form.
    """
    layers = own_cache(model)
    batch = [type(layer).merge([layer] * len(padding)) for layer in layers]
    for layer in batch:
        layer.prepare(left_padding=padding)
    return batch


def own_cache(model: nn.Module) -> list[Any]:
    """An empty cache of the model's own types. Raises ModelError for a type without a usable batch form."""
    layers = make_prompt_cache(model)
    kinds = {type(layer).__name__ for layer in layers if not isinstance(layer, BATCHING)}
    if kinds:
        # State-space layers have a batch form, too, but they read left padding as text.
        raise ModelError(
            f"{type(model).__module__.rpartition('.')[2]} has layers that keep a state "
            f"({', '.join(sorted(kinds))}) instead of keys and values, which is not supported yet",
            "choose a model of attention layers only (llama, qwen2, qwen3, gemma3, mistral, nanochat, …)",
            trouble="model-forward",
        )
    return layers


def carries_gradients(model: nn.Module) -> bool:
    """True if all of the model's layers use the plain KVCache, through which gradients flow."""
    return all(type(layer) is KVCache for layer in make_prompt_cache(model))


def completion_outputs(
    model: nn.Module,
    prompts: list[list[int]] | PaddedPrompts,
    rows: list[int] | mx.array,
    inputs: mx.array,
    *,
    share_prefix: bool,
    part: nn.Module | None = None,
    recompute: bool = False,
) -> mx.array:
    """Output of the model, (B, S, V), or of a `part` (its trunk), (B, S, H), for each of `inputs` (B, S).

    Row b continues prompt rows[b]; the first column of inputs is the prompt's last token. Without
    `share_prefix` every row computes its prompt itself, which works for all models; prompts and rows are
    lists then. `recompute`: recompute layers in the backward.
    """
    forward: Any = part or model
    with checkpointed(model) if recompute else nullcontext():
        if isinstance(prompts, PaddedPrompts) or share_prefix:
            cache = read_for_gradients(model, prompts)
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
    places = mx.array(heads)[:, None] + mx.arange(width)[None]  # (B, S)
    return mx.take_along_axis(forward(ids), places[..., None], axis=1)
