"""The prompt caches of mlx-lm's models: which kinds there are, and what each kind can do.

    layers = batch_form(make_prompt_cache(model), [0, 3])     # two rows, the second left-padded by 3
    keep_rows(layers[0], mx.array([0, 0, 1]))

| kind | holds | rows of unlike length | carries gradients |
|---|---|---|---|
| KVCache | keys and values of all tokens | left-padded | yes |
| RotatingKVCache | those of the last tokens | left-padded | yes, as all keys with a window's mask |
| ArraysCache | a state (state space, convolution) | side by side, or by the model's mask | yes |
| ChunkedKVCache | keys and values of one chunk | no: rows have one length | no |
| CacheList | several of these | as its members | as its members |

Padding must not enter a state: a state has the same size after any number of tokens, so rows that were read
without padding are put side by side. Models that hide padded tokens from their states by a mask may also read
padded prompts; forward_probe.py finds out which do.
"""

from copy import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

KEYS_AND_VALUES = (KVCache, RotatingKVCache, ChunkedKVCache)  # kinds without a `filter` of their own


class NoBatchForm(ValueError):
    """A kind of cache that holds no rows of unlike length."""


class TracedCache(BatchKVCache):
    """A batch cache that can be traced: `filter` reads no values, so it removes no common padding."""

    def filter(self, batch_indices: mx.array) -> None:
        """Keep these rows, in this order."""
        if self.keys is not None:
            self.keys, self.values = self.keys[batch_indices], self.values[batch_indices]
        self.offset, self.left_padding = self.offset[batch_indices], self.left_padding[batch_indices]


class WindowCache(TracedCache):
    """A RotatingKVCache for training: holds all keys and masks those outside of the window.

    Nothing is overwritten, so gradients flow through all of it.
    """

    def __init__(self, window: int, left_padding: list[int]) -> None:
        super().__init__(left_padding)
        self.window = window

    def make_mask(self, N: int, return_array: bool = False, **options: Any) -> mx.array:
        """The causal mask within the window: (B, 1, N, T + N)."""
        options["window_size"] = options.get("window_size") or self.window
        mask: mx.array = super().make_mask(N, return_array=return_array, **options)
        return mask


def batch_form(layers: list[Any], padding: list[int], for_gradients: bool = False) -> list[Any]:
    """Empty caches with one row for each number of `padding`, its tokens of left padding.

    `layers`: empty caches of the model's own kinds. Raises NoBatchForm.
    """
    return [_batch_form(layer, padding, for_gradients) for layer in layers]


def _batch_form(layer: Any, padding: list[int], for_gradients: bool) -> Any:
    """The same for one layer."""
    if isinstance(layer, CacheList):
        return CacheList(*batch_form(list(layer.caches), padding, for_gradients))
    if isinstance(layer, ArraysCache):
        return ArraysCache(len(layer.cache), padding)
    if type(layer) is KVCache:
        return TracedCache(padding) if for_gradients else BatchKVCache(padding)
    if type(layer) is RotatingKVCache:
        kind: Any = WindowCache if for_gradients else BatchRotatingKVCache
        return kind(layer.max_size, padding)
    raise NoBatchForm(f"a {type(layer).__name__} holds no rows of unlike length")


def forget_padding(layers: list[Any]) -> None:
    """After a prompt is read no state has padding in front of it, so single tokens need no mask."""
    for layer in members(layers):
        if isinstance(layer, ArraysCache) and not layer.empty():
            layer.finalize()


def keep_rows(layer: Any, rows: mx.array) -> None:
    """Keep these rows of a layer's cache, in this order; a row named twice is repeated."""
    if isinstance(layer, CacheList):
        for member in layer.caches:
            keep_rows(member, rows)
    elif not isinstance(layer, KEYS_AND_VALUES):
        layer.filter(rows)
    elif layer.keys is not None:  # the model's own kind, which has no paddings to filter
        layer.keys, layer.values = layer.keys[rows], layer.values[rows]


def copied(layer: Any) -> Any:
    """A copy that can be changed without changing the layer's cache; its arrays are shared."""
    if isinstance(layer, CacheList):
        return CacheList(*[copied(member) for member in layer.caches])
    twin = copy(layer)
    if isinstance(layer, ArraysCache):
        twin.cache = list(layer.cache)
    return twin


def arrays_of(layers: list[Any]) -> list[mx.array]:
    """All arrays that the caches hold, for `mx.eval`."""
    found = []
    for layer in members(layers):
        held = layer.cache if isinstance(layer, ArraysCache) else [layer.keys, layer.values]
        found += [array for array in held if array is not None]
    return found


def members(layers: list[Any]) -> list[Any]:
    """The caches of all layers, with those of a CacheList one by one."""
    return [
        member
        for layer in layers
        for member in (members(list(layer.caches)) if isinstance(layer, CacheList) else [layer])
    ]


def has_only_keys(model: nn.Module, *, windows: bool = False) -> bool:
    """True if all layers use a plain KVCache, or with `windows` a RotatingKVCache."""
    kinds: tuple[type, ...] = (KVCache, RotatingKVCache) if windows else (KVCache,)
    return all(type(layer) in kinds for layer in make_prompt_cache(model))
