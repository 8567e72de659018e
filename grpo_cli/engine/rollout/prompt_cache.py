"""Read every prompt once for all of its completions, in sampling and in training alike.

    cache = read_prompts(model, [ab, c])     # a KV cache of two rows, left-padded to one length
    keep(cache, [0, 0, 0, 1, 1, 1])          # three completions of each: rows are repeated
    logits = model(inputs, cache=cache)      # only the completions' positions are computed

The cache is built from differentiable operations, so in training the same three lines carry the
gradient back through the shared prompt: the prompt's forward and backward are made once a group
instead of once a completion, and logits exist for completion tokens only.
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

BATCHING = (KVCache, RotatingKVCache)  # caches that know where a left-padded row begins


@dataclass(frozen=True)
class PaddedPrompts:
    """Prompts as arrays, for a function that is traced: all but their last tokens."""

    ids: mx.array  # (P, T) left-padded
    padding: mx.array  # (P,)


class TracedCache(BatchKVCache):
    """A batch cache that looks at no number: rows stay as far to the right as they are."""

    def filter(self, batch_indices: mx.array) -> None:
        """Keep these rows, in this order."""
        if self.keys is not None:
            self.keys, self.values = self.keys[batch_indices], self.values[batch_indices]
        self.offset, self.left_padding = self.offset[batch_indices], self.left_padding[batch_indices]


def read_padded(model: nn.Module, prompts: PaddedPrompts) -> list[Any]:
    """The same as `read_prompts`, of arrays; for models that `carries_gradients` is true of."""
    cache: list[Any] = [TracedCache([0] * len(prompts.ids)) for _ in make_prompt_cache(model)]
    for layer in cache:
        layer.prepare(left_padding=prompts.padding)
    if prompts.ids.shape[1]:
        model(prompts.ids, cache=cache)
    return cache


def read_prompts(
    model: nn.Module, prompts: list[list[int]], chunk: int | None = None, padded: bool = True
) -> list[Any]:
    """A cache that has read all but the last token of every prompt.

    `chunk`: evaluate after so many columns, which bounds memory where no gradient is wanted. Without `padded`
    prompts are of one length and the cache is the model's own, which knows of no padding: for models that are
    wrong with it (forward_probe.py). Rows of such a cache stay together; none joins it.
    """
    length = max(len(prompt) for prompt in prompts) - 1
    padding = [length - (len(prompt) - 1) for prompt in prompts]
    cache = batch_cache(model, padding) if padded else own_cache(model)
    ids = mx.array([[0] * pad + prompt[:-1] for pad, prompt in zip(padding, prompts, strict=True)])  # (P, T)
    for start in range(0, length, chunk or max(length, 1)):
        # The logits are never asked for, so MLX never computes them.
        model(ids[:, start : start + (chunk or length)], cache=cache)
        if chunk:
            mx.eval([layer.state for layer in cache])
    return cache


def read_for_gradients(model: nn.Module, prompts: list[list[int]] | PaddedPrompts) -> list[Any]:
    """A cache that has read all but the last token of every prompt."""
    if isinstance(prompts, PaddedPrompts):
        return read_padded(model, prompts)
    return read_prompts(model, prompts)


def keep(cache: list[Any], rows: list[int] | mx.array) -> None:
    """Keep these rows of the cache, in this order; a row named twice is repeated."""
    indices = mx.array(rows)
    for layer in cache:
        if not isinstance(layer, BATCHING):
            layer.filter(indices)
        elif layer.keys is not None:  # a model's own; without a batch's paddings it has no more to filter
            layer.keys, layer.values = layer.keys[indices], layer.values[indices]


def select(cache: list[Any], rows: list[int]) -> list[Any]:
    """A cache of its own with these rows of another, which stays as it is."""
    chosen = [copy(layer) for layer in cache]
    keep(chosen, rows)  # makes new arrays
    return chosen


def join(cache: list[Any], other: list[Any]) -> None:
    """Put the rows of another cache behind those of the first, left-padded where they are shorter."""
    for layer, added in zip(cache, other, strict=True):
        layer.extend(added)


def batch_cache(model: nn.Module, padding: list[int]) -> list[Any]:
    """An empty cache with one row per prompt, of whatever kind each layer of the model uses.

    Raises ModelError for a kind that no batch is sampled from.
    """
    layers = own_cache(model)
    batch = [type(layer).merge([layer] * len(padding)) for layer in layers]
    for layer in batch:
        layer.prepare(left_padding=padding)
    return batch


def own_cache(model: nn.Module) -> list[Any]:
    """An empty cache as the model makes it. Raises ModelError for a kind that no batch is sampled from."""
    layers = make_prompt_cache(model)
    kinds = {type(layer).__name__ for layer in layers if not isinstance(layer, BATCHING)}
    if kinds:
        # State-space layers have a batch form too, but they read left padding as if it were text.
        raise ModelError(
            f"{type(model).__module__.rpartition('.')[2]} has layers that keep a state "
            f"({', '.join(sorted(kinds))}) in place of keys and values, and cannot be sampled or tuned yet",
            "choose a model of attention layers only (llama, qwen2, qwen3, gemma3, mistral, nanochat, …)",
            trouble="model-forward",
        )
    return layers


def carries_gradients(model: nn.Module) -> bool:
    """Whether the model's cache is the plain kind that gradients flow through."""
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
    """What the model (or a `part` of it: its trunk) gives after each of `inputs` (B, S): (B, S, V or H).

    Row b continues prompt rows[b]; the first column of inputs is the prompt's last token. Without
    `share_prefix` every row reads its prompt itself, which any model can do; prompts and rows are lists then.
    With `recompute` layers are computed again in the backward.
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
    """The same from one forward over prompt and completion together, without a cache.

    Rows are right-padded; prompts of other lengths make each row's completion begin elsewhere.
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
