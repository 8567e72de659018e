"""Attention in blocks of queries on a CPU: memory for a block of scores instead of all, in less time.

    with blockwise_attention():
        logits = model(ids)              # forward and gradient

On a CPU `mx.fast.scaled_dot_product_attention` computes the scores of all queries and keys at once, (B, H, L,
T), keeps them for the backward, and takes their exponentials slowly (fast_exp.py). Here a block of queries
meets its keys at a time, keys that come after the whole block are left out, and the backward computes a
block's scores again. Results differ from MLX's by rounding.

Source: Rabe and Staats 2021, "Self-attention Does Not Need O(n²) Memory", arXiv:2112.05682, section 2; for
the gradient Dao et al. 2022, "FlashAttention", arXiv:2205.14135, appendix B.2.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from grpo_cli import device
from grpo_cli.cpu import block_sizes
from grpo_cli.cpu.fast_exp import exp
from grpo_cli.cpu.lazy import after

MASKS = 4  # masks of one forward that are remembered, and so kept: one for each kind of layer
NEGLIGIBLE = -1e30  # a masked score; finite, so that a fully masked row is not NaN

Mask = mx.array | str | None


@contextmanager
def blockwise_attention() -> Iterator[None]:
    """Within the block float32 attention of more than one query is computed in blocks; on a CPU only."""
    plain = mx.fast.scaled_dot_product_attention
    causal: dict[int, tuple[mx.array, bool]] = {}  # of the newest masks, which the layers of a forward share

    def attention(queries: mx.array, keys: Any, values: Any, *, scale: float, **options: Any) -> mx.array:
        mask = options.get("mask")
        if not is_supported(queries, keys, values, **options):
            return plain(queries, keys, values, scale=scale, **options)
        shape = Shape(*queries.shape, *values.shape[1:])
        return attend(queries * scale, keys, values, shape, mask, skips_keys(shape, mask, causal))

    if device.prepare().kind != "cpu":
        yield
        return
    try:
        mx.fast.scaled_dot_product_attention = attention  # type: ignore[assignment]
        yield
    finally:
        mx.fast.scaled_dot_product_attention = plain


def is_supported(queries: mx.array, keys: Any, values: Any, mask: Mask = None, **options: Any) -> bool:
    """True for float32 arrays of several queries whose mask, if any, is the same for all heads."""
    if any(value is not None and value is not False for value in options.values()):  # sinks, for example
        return False
    if queries.shape[2] == 1 or not all(isinstance(one, mx.array) for one in (keys, values)):
        return False
    if queries.shape[2] > keys.shape[2]:
        return False
    if any(one.dtype != mx.float32 for one in (queries, keys, values)):
        return False
    if not isinstance(mask, mx.array):
        return mask in (None, "causal")
    same_for_heads = mask.ndim < 3 or mask.shape[-3] == 1
    return mask.dtype == mx.bool_ and same_for_heads and mask.shape[-2:] == (queries.shape[2], keys.shape[2])


def skips_keys(shape: "Shape", mask: Mask, causal: dict[int, tuple[mx.array, bool]]) -> bool:
    """True if a block leaves out the keys after its last query. `causal` remembers the newest masks."""
    if not isinstance(mask, mx.array):
        return mask == "causal"
    if len(shape.blocks(False)) == 1:
        return False  # the last query sees all keys, and the mask need not be read
    if id(mask) not in causal:
        if len(causal) == MASKS:
            causal.clear()
        causal[id(mask)] = mask, hides_later_keys(mask)
    return causal[id(mask)][1]


def hides_later_keys(mask: mx.array) -> bool:
    """True if no query sees a key after its own place, where the last query has the last key: (…, L, T).

    False for a mask that is not known yet, within mx.compile: then all keys are computed.
    """
    length, keys = mask.shape[-2:]
    later = mx.arange(keys)[None] > mx.arange(keys - length, keys)[:, None]  # (L, T)
    try:
        found: Any = (mask & later).any().item()
    except ValueError:  # "Attempting to eval an array during function transformations"
        return False
    return not found


@dataclass(frozen=True)
class Shape:
    """Sizes of one attention: B rows, H query heads on KV key heads, L queries, T keys, widths D and E."""

    rows: int
    heads: int
    queries: int
    width: int
    key_heads: int
    keys: int
    value_width: int

    def blocks(self, skips: bool) -> list[tuple[int, int, int]]:
        """First and last query of every block, both counted from 0 and the last excluded, and its keys."""
        of_query = self.rows * self.heads * self.keys
        size = block_sizes.scores_at_once(self.rows, self.heads, self.keys) // of_query
        ends = [(start, min(start + size, self.queries)) for start in range(0, self.queries, size)]
        before = self.keys - self.queries  # keys before the first query's
        return [(start, end, before + end if skips else self.keys) for start, end in ends]

    def by_key_head(self, x: mx.array, start: int, end: int) -> mx.array:
        """Queries `start` to `end` of x (B, H, L, C), those of one key head as a matrix: (B, KV, R·l, C)."""
        return x[:, :, start:end].reshape(self.rows, self.key_heads, -1, x.shape[-1])

    def by_head(self, x: mx.array, count: int) -> mx.array:
        """The inverse for `count` queries: (B, KV, R·l, C) to (B, H, l, C)."""
        return x.reshape(self.rows, self.heads, count, x.shape[-1])


@dataclass(frozen=True)
class Blocks:
    """One attention in blocks: first query, last query (excluded) and number of keys of each."""

    shape: Shape
    mask: Mask
    parts: list[tuple[int, int, int]]

    def scores(
        self, part: tuple[int, int, int], queries: mx.array, keys: mx.array
    ) -> tuple[mx.array, mx.array]:
        """A block's queries (B, KV, R·l, D) and its masked scores (B, KV, R·l, T)."""
        start, end, seen = part
        rows = self.shape.by_key_head(queries, start, end)
        found = rows @ keys[:, :, :seen].swapaxes(-1, -2)
        if self.mask is None:
            return rows, found
        split = found.reshape(self.shape.rows, self.shape.key_heads, -1, end - start, seen)
        # Not a sum: scores of padding may be infinite.
        masked = mx.where(visible_keys(self.mask, part, self.shape), split, NEGLIGIBLE)
        return rows, masked.reshape(found.shape)

    def forward(self, queries: mx.array, keys: mx.array, values: mx.array) -> tuple[mx.array, ...]:
        """The result (B, H, L, E), and each query's largest score and sum of exponentials: (B, H, L, 1)."""
        found: list[list[mx.array]] = []
        for part in self.parts:
            start, end, seen = part
            _, raw = self.scores(part, after(queries, found[-1][:1] if found else []), keys)
            top = raw.max(axis=-1, keepdims=True)
            weights = exp(raw - top)
            total = weights.sum(axis=-1, keepdims=True)
            out = (weights @ values[:, :, :seen]) / total
            found.append([self.shape.by_head(x, end - start) for x in (out, top, total)])
        return tuple(mx.concatenate(list(each), axis=2) for each in zip(*found, strict=True))

    def backward(self, primals: Any, cotangents: Any, results: Any) -> tuple[mx.array, ...]:
        """The gradients by queries, keys and values, from scores that are computed again."""
        (queries, keys, values), (out, top, total), given = primals, results, cotangents[0]
        mean = (given * out).sum(axis=-1, keepdims=True)  # (B, H, L, 1) Σ p · ∂p
        of_queries: list[mx.array] = []
        sums: list[mx.array] = []  # the gradients by keys and by values so far
        for part in self.parts:
            start, end, seen = part
            rows, raw = self.scores(part, after(queries, [*of_queries[-1:], *sums] or [given]), keys)
            own, g, m, t = (self.shape.by_key_head(x, start, end) for x in (top, given, mean, total))
            weights = exp(raw - own) / t
            slope = weights * (g @ values[:, :, :seen].swapaxes(-1, -2) - m)
            of_queries.append(self.shape.by_head(slope @ keys[:, :, :seen], end - start))
            sums = grown(sums, [slope.swapaxes(-1, -2) @ rows, weights.swapaxes(-1, -2) @ g])
        return mx.concatenate(of_queries, axis=2), *sums


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, shape: Shape, mask: Mask, skips: bool
) -> mx.array:
    """softmax(q kᵀ) v: (B, H, L, D), (B, KV, T, D), (B, KV, T, E) → (B, H, L, E).

    `skips`: no query sees a key after its own place.
    """
    blocks = Blocks(shape, mask, shape.blocks(skips))
    forward = mx.custom_function(blocks.forward)
    forward.vjp(blocks.backward)
    result: Any = forward(queries, keys, values)
    return result[0]


def visible_keys(mask: mx.array | str, block: tuple[int, int, int], shape: Shape) -> mx.array:
    """The mask of a block's scores, which broadcasts to (B, KV, R, l, T)."""
    start, end, seen = block
    if isinstance(mask, str):
        before = shape.keys - shape.queries
        return mx.arange(seen)[None] <= mx.arange(before + start, before + end)[:, None]
    visible = mask[..., start:end, :seen]
    return visible[:, :, None] if visible.ndim == 4 else visible


def grown(sums: list[mx.array], added: list[mx.array]) -> list[mx.array]:
    """The sums of gradients (B, KV, T, C) so far plus those of a block, which has as many keys or more."""
    if not sums:
        return added
    shared = sums[0].shape[2]
    return [
        mx.concatenate([old + new[:, :, :shared], new[:, :, shared:]], axis=2)
        for old, new in zip(sums, added, strict=True)
    ]
