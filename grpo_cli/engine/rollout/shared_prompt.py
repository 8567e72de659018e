"""Decoding attention that reads a prompt's keys once for all of its completions, for sampling on a CPU.

    cache = [GroupCache(layer, [0, 0, 0, 1, 1, 1]) for layer in read_prompts(model, [ab, c])]
    with quick_decoding():
        logits = model(tokens, cache=cache)      # (6, 1): one token for each completion

A completion attends to the keys of its prompt, stored once per group, and to its own keys. The queries of a
group form one matrix product with the prompt's keys, instead of one product per row and head. Both parts of
the scores share one softmax, so the result is that of plain attention.

Source: Juravsky et al. 2024, "Hydragen", arXiv:2402.05099, section 3.2. The paper combines two softmaxes by
their sums; here the scores are concatenated before a single softmax, which is as exact and simpler for short
rows.

mlx-lm's models call `mx.fast.scaled_dot_product_attention`, which on a CPU is a composition of products.
Inside `quick_decoding` that name is replaced: keys from a GroupCache use the attention of this file, all
others MLX's own. Models that use their cache's keys in any other way fail the test of `reads_in_groups` and
decode with plain caches.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import BatchKVCache

from grpo_cli import device
from grpo_cli.cpu.fast_exp import exp, has_slow_exp, sigmoid_by_power
from grpo_cli.engine.rollout.prompt_cache import read_prompts, select
from grpo_cli.models.caches import has_only_keys
from grpo_cli.models.same_logits import same_logits

PROBE = [[1, 2, 3], [2]]  # prompts of two lengths
STEP = 64  # completion tokens that memory is allocated for at a time
NEGLIGIBLE = -1e30  # a masked score; finite, so that a fully masked row is not NaN


class GroupCache:
    """One layer's keys and values of P prompts and of the B completions that continue them.

    `prompts`: the cache of the left-padded prompts. Row b of the batch continues prompt groups[b]. `names`:
    one for each prompt; rows of a prompt that is already there join its group.
    """

    def __init__(self, prompts: BatchKVCache, groups: list[int], names: Sequence[Hashable] = ()) -> None:
        self.prompts, self.own = prompts, BatchKVCache([0] * len(groups))
        self.own.step = STEP
        self.names = list(names) or [object() for _ in range(len(prompts.left_padding))]
        self.arrange(groups)

    @classmethod
    def of_row(cls, whole: BatchKVCache, prompt_length: int, name: Hashable) -> "GroupCache":
        """The cache of one row that comes back, from the plain cache that `row` made of it."""
        cache = cls(section(whole, 0, prompt_length), [0], [name])
        cache.own = section(whole, prompt_length, whole._idx)
        cache.own.step = STEP
        return cache

    def arrange(self, groups: list[int]) -> None:
        """Set each row's prompt, and pad every group to the number of rows of the largest."""
        self.groups = groups
        of_group = [
            [row for row, group in enumerate(groups) if group == prompt] for prompt in range(len(self.names))
        ]
        self.width = max(len(rows) for rows in of_group)
        slots = [row for rows in of_group for row in rows + [0] * (self.width - len(rows))]
        # No reordering is needed if groups are of equal size and rows in order.
        self.slots = None if slots == list(range(len(groups))) else mx.array(slots)  # (P·width,) a row
        offset = {row: g * self.width + i for g, rows in enumerate(of_group) for i, row in enumerate(rows)}
        self.places = mx.array([offset[row] for row in range(len(groups))])  # (B,) a row's slot
        self.index = mx.array(groups)  # (B,)

    @property
    def offset(self) -> mx.array:
        """The position of each row's next token: (B,)."""
        return self.prompts.offset[self.index] + self.own.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple["GroupCache", "GroupCache"]:
        """Append the rows' newest keys and values (B, KV, 1, D); returns this cache in place of arrays."""
        self.own.update_and_fetch(keys, values)
        return self, self

    def make_mask(self, length: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """The attention mask of each row's next token over its prompt and own tokens: (B, 1, 1, T + S)."""
        del return_array
        if length != 1:
            raise ValueError(f"A GroupCache reads 1 token of a row at once, not {length}")
        head = self.prompts.offset[self.index][:, None]  # (B, 1) tokens of the prompt
        padding = self.prompts.left_padding[self.index][:, None]
        before = mx.arange(self.prompts._idx)[None] - padding  # (B, T) positions in the text
        after = mx.arange(self.own._idx + 1)[None] - self.own.left_padding[:, None]
        seen = mx.concatenate([before >= 0, after >= 0], axis=1)
        if window_size is not None:
            positions = mx.concatenate([before, head + after], axis=1)
            seen = seen & (positions > self.offset[:, None] - window_size)
        return seen[:, None, None]

    def filter(self, rows: mx.array) -> None:
        """Keep these rows, in this order, and their prompts."""
        numbers: Any = rows.tolist()
        groups = [self.groups[row] for row in numbers]
        needed = sorted(set(groups))
        if len(needed) < len(self.names):
            self.prompts.filter(mx.array(needed))
            self.names = [self.names[group] for group in needed]
        self.own.filter(rows)
        self.arrange([needed.index(group) for group in groups])

    def extend(self, other: "GroupCache") -> None:
        """Append the rows of another cache, and those of its prompts that are not here yet."""
        new = [place for place, name in enumerate(other.names) if name not in self.names]
        if new:
            self.prompts.extend(select([other.prompts], new)[0])
            self.names += [other.names[place] for place in new]
        self.own.extend(other.own)
        self.arrange(self.groups + [self.names.index(other.names[group]) for group in other.groups])

    def row(self, place: int) -> BatchKVCache:
        """The keys and values of one row, its prompt's and its own, as a plain cache of one row."""
        parts = unpadded(self.own, place)
        if self.prompts.keys is not None:
            parts = tuple(map(joined, unpadded(self.prompts, self.groups[place]), parts))
        return plain_cache(*parts)

    # --- rows and groups ---

    def by_group(self, x: mx.array) -> mx.array:
        """Reorder (B, KV, R, C) to (P, KV, width·R, C): the rows of one prompt form one matrix."""
        _, kv, repeats, channels = x.shape
        x = x if self.slots is None else x[self.slots]
        x = x.reshape(-1, self.width, kv, repeats, channels).swapaxes(1, 2)
        return x.reshape(-1, kv, self.width * repeats, channels)

    def by_row(self, x: mx.array, repeats: int) -> mx.array:
        """The inverse of `by_group`: (P, KV, width·R, C) to (B, KV, R, C)."""
        _, kv, _, channels = x.shape
        x = x.reshape(-1, kv, self.width, repeats, channels).swapaxes(1, 2)
        x = x.reshape(-1, kv, repeats, channels)
        return x if self.slots is None else x[self.places]


def one_row(layer: Any, place: int) -> Any:
    """A cache of its own for one row of a layer's cache, which stays unchanged."""
    return layer.row(place) if isinstance(layer, GroupCache) else select([layer], [place])[0]


def unpadded(cache: BatchKVCache, row: int) -> tuple[mx.array, mx.array]:
    """Keys and values of one row without its left padding: (1, KV, S, D) each."""
    start: Any = cache.left_padding[row].item()
    keys, values = cache.keys_and_values()
    return keys[row : row + 1, :, start:], values[row : row + 1, :, start:]


def joined(before: mx.array, after: mx.array) -> mx.array:
    """Keys or values of two sections of a row: (1, KV, T + S, D)."""
    return mx.concatenate([before, after], axis=2)


def plain_cache(keys: mx.array, values: mx.array) -> BatchKVCache:
    """A cache of one row without padding: (1, KV, S, D) each."""
    cache: Any = BatchKVCache([0])
    cache.keys, cache.values, cache._idx = keys, values, keys.shape[2]
    cache.offset = mx.array([cache._idx])
    return cache


def section(whole: BatchKVCache, start: int, end: int) -> BatchKVCache:
    """The tokens from `start` to `end` of a cache of one row, as a cache of their own."""
    if start == end:
        return BatchKVCache([0])  # holds no arrays
    keys, values = whole.keys_and_values()
    return plain_cache(keys[:, :, start:end], values[:, :, start:end])


def grouped_attention(queries: mx.array, cache: GroupCache, scale: float, mask: mx.array) -> mx.array:
    """softmax(scale · q kᵀ) v over a row's prompt and its own tokens: (B, H, 1, D), `mask` (B, 1, 1, T + S).

    H = KV · R heads: R query heads share one key head.
    """
    own_keys, own_values = cache.own.keys_and_values()  # (B, KV, S, D)
    rows, kv = own_keys.shape[:2]
    repeats = queries.shape[1] // kv
    scaled = (queries * scale).reshape(rows, kv, repeats, -1)
    scores = scaled @ own_keys.swapaxes(-1, -2)  # (B, KV, R, S)
    before = cache.prompts._idx  # T; 0 for prompts of one token
    if before:
        keys, values = cache.prompts.keys_and_values()  # (P, KV, T, D)
        shared = cache.by_group(scaled) @ keys.swapaxes(-1, -2)  # (P, KV, width·R, T)
        scores = mx.concatenate([cache.by_row(shared, repeats), scores], axis=-1)
    scores = mx.where(mask, scores, NEGLIGIBLE)
    weights = exp(scores - scores.max(axis=-1, keepdims=True))
    out = weights[..., before:] @ own_values  # (B, KV, R, D)
    if before:
        out = out + cache.by_row(cache.by_group(weights[..., :before]) @ values, repeats)
    out = out / weights.sum(axis=-1, keepdims=True)
    return out.reshape(rows, kv * repeats, 1, -1)


@contextmanager
def quick_decoding() -> Iterator[None]:
    """Within the block attention to a GroupCache is grouped, and a slow `mx.sigmoid` is replaced."""
    plain_attention, plain_sigmoid = mx.fast.scaled_dot_product_attention, mx.sigmoid

    def attention(queries: mx.array, keys: Any, values: Any, **options: Any) -> mx.array:
        if isinstance(keys, GroupCache):
            if options.get("sinks") is not None:
                raise ValueError("A GroupCache has no attention sinks")
            return grouped_attention(queries, keys, options["scale"], options["mask"])
        return plain_attention(queries, keys, values, **options)

    def sigmoid(x: mx.array, **options: Any) -> mx.array:
        return sigmoid_by_power(x) if x.dtype == mx.float32 else plain_sigmoid(x, **options)

    try:
        mx.fast.scaled_dot_product_attention = attention  # type: ignore[assignment]
        if has_slow_exp():
            mx.sigmoid = sigmoid
        yield
    finally:
        mx.fast.scaled_dot_product_attention, mx.sigmoid = plain_attention, plain_sigmoid


# --- support by models ---------------------------------------------------------------------------------

# By class and arguments: these decide how a model uses its cache.
_found: dict[tuple[type, str], bool] = {}


def reads_in_groups(model: nn.Module) -> bool:
    """True if the model decodes correctly with GroupCaches, tested once per model class and arguments.

    False except on a CPU: other devices have fused attention kernels, which GroupCaches would bypass.
    """
    if device.prepare().kind != "cpu" or not has_only_keys(model):
        return False
    kind = (type(model), repr(getattr(model, "args", None)))
    if kind not in _found:
        _found[kind] = agrees(model)
    return _found[kind]


def agrees(model: nn.Module) -> bool:
    """True if one decoding step gives the same logits with GroupCaches as without."""
    rows, tokens = [0, 0, 1], mx.array([[3], [4], [2]])
    try:
        prompts = read_prompts(model, PROBE)
        plain = select(prompts, rows)
        grouped = [GroupCache(layer, rows) for layer in prompts]
        expected = model(tokens, cache=plain)
        with quick_decoding():
            found = model(tokens, cache=grouped)
    except (TypeError, AttributeError, ValueError, IndexError, KeyError):  # the model reads the keys itself
        return False
    return same_logits(found, expected)
