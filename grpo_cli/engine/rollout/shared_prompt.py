"""Attention that reads a prompt once for all of its completions, while they are sampled on a CPU.

    cache = [GroupCache(layer, [0, 0, 0, 1, 1, 1]) for layer in read_prompts(model, [ab, c])]
    with quick_decoding():
        logits = model(tokens, cache=cache)      # (6, 1): one token for each completion

A completion's query meets the keys of its prompt, which lie in memory once, and its own. The queries of
a group are rows of one matrix product with the prompt's keys, in place of a product for each row and
head; the two parts of the scores share one softmax, so the result is that of plain attention.

Source: Juravsky et al. 2024, "Hydragen", arXiv:2402.05099, section 3.2. It joins two softmaxes by their
sums; here the scores are joined before a single one, which is as exact and simpler for short rows.

mlx-lm's models call `mx.fast.scaled_dot_product_attention`, on a CPU a composition of products; inside
`quick_decoding` that name leads here where the keys come from a GroupCache, and to MLX's own otherwise.
A model that does anything else with its cache's keys is found by `reads_in_groups` and decodes plainly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import BatchKVCache

from grpo_cli import device
from grpo_cli.cpu.fast_exp import exp, has_slow_exp, sigmoid_by_power
from grpo_cli.engine.rollout.prompt_cache import carries_gradients, keep, read_prompts

PROBE = [[1, 2, 3], [2]]  # prompts of two lengths
STEP = 64  # tokens of a completion that memory is taken for at once
NEGLIGIBLE = -1e30  # a score that is not looked at; finite, so that a row without any is no NaN


class GroupCache:
    """One layer's keys and values of P prompts, and of B completions that belong to them.

    `prompts` has read the prompts, left-padded; row b of the batch continues prompt groups[b].
    """

    def __init__(self, prompts: BatchKVCache, groups: list[int]) -> None:
        self.prompts, self.own = prompts, BatchKVCache([0] * len(groups))
        self.own.step = STEP
        self.arrange(groups)

    def arrange(self, groups: list[int]) -> None:
        """Note the rows' prompts, and give every group as many places as the largest one needs."""
        self.groups = groups
        of_group = [
            [row for row, group in enumerate(groups) if group == prompt]
            for prompt in range(len(self.prompts.left_padding))
        ]
        self.width = max(len(rows) for rows in of_group)
        slots = [row for rows in of_group for row in rows + [0] * (self.width - len(rows))]
        # Nothing moves where groups are equally large and rows in order.
        self.slots = None if slots == list(range(len(groups))) else mx.array(slots)  # (P·width,) a row
        offset = {row: g * self.width + i for g, rows in enumerate(of_group) for i, row in enumerate(rows)}
        self.places = mx.array([offset[row] for row in range(len(groups))])  # (B,) a row's slot
        self.index = mx.array(groups)  # (B,)

    @property
    def offset(self) -> mx.array:
        """The position of each row's next token: (B,)."""
        return self.prompts.offset[self.index] + self.own.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple["GroupCache", "GroupCache"]:
        """Take in the rows' newest keys and values (B, KV, 1, D); what comes back stands for all of them."""
        self.own.update_and_fetch(keys, values)
        return self, self

    def make_mask(self, length: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """What each row's next token sees of its prompt and of its own tokens: (B, 1, 1, T + S) bool."""
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
        """Keep these rows, in this order, and the prompts that they have."""
        numbers: Any = rows.tolist()
        groups = [self.groups[row] for row in numbers]
        needed = sorted(set(groups))
        if len(needed) < len(self.prompts.left_padding):
            self.prompts.filter(mx.array(needed))
        self.own.filter(rows)
        self.arrange([needed.index(group) for group in groups])

    def extend(self, other: "GroupCache") -> None:
        """Put the rows of another cache behind these."""
        first = len(self.prompts.left_padding)
        self.prompts.extend(other.prompts)
        self.own.extend(other.own)
        self.arrange(self.groups + [first + group for group in other.groups])

    # --- rows and groups ---

    def by_group(self, x: mx.array) -> mx.array:
        """(B, KV, R, C) of rows to (P, KV, width·R, C): what shares a prompt is one matrix."""
        _, kv, repeats, channels = x.shape
        x = x if self.slots is None else x[self.slots]
        x = x.reshape(-1, self.width, kv, repeats, channels).swapaxes(1, 2)
        return x.reshape(-1, kv, self.width * repeats, channels)

    def by_row(self, x: mx.array, repeats: int) -> mx.array:
        """The way back: (P, KV, width·R, C) to (B, KV, R, C)."""
        _, kv, _, channels = x.shape
        x = x.reshape(-1, kv, self.width, repeats, channels).swapaxes(1, 2)
        x = x.reshape(-1, kv, repeats, channels)
        return x if self.slots is None else x[self.places]


def grouped_attention(queries: mx.array, cache: GroupCache, scale: float, mask: mx.array) -> mx.array:
    """softmax(scale · q kᵀ) v over a row's prompt and its own tokens: (B, H, 1, D), `mask` (B, 1, 1, T + S).

    Heads H = KV · R: R of them look at the same keys.
    """
    own_keys, own_values = cache.own.keys_and_values()  # (B, KV, S, D)
    rows, kv = own_keys.shape[:2]
    repeats = queries.shape[1] // kv
    scaled = (queries * scale).reshape(rows, kv, repeats, -1)
    scores = scaled @ own_keys.swapaxes(-1, -2)  # (B, KV, R, S)
    before = cache.prompts._idx  # T; prompts of one token leave nothing to read before the first draw
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
    """Within it models attend in groups to a GroupCache and, where `mx.exp` is slow, do without it."""
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


# --- which models ---------------------------------------------------------------------------------

# By class and arguments: these decide what a model reads from its cache.
_found: dict[tuple[type, str], bool] = {}


def reads_in_groups(model: nn.Module) -> bool:
    """Whether the model's completions can be decoded with GroupCaches, here: tried once for each kind.

    Only on a CPU; other devices have attention kernels of their own, which this would go without.
    """
    if device.prepare().kind != "cpu" or not carries_gradients(model):
        return False
    kind = (type(model), repr(getattr(model, "args", None)))
    if kind not in _found:
        _found[kind] = agrees(model)
    return _found[kind]


def agrees(model: nn.Module) -> bool:
    """Whether a step of decoding gives the same logits with GroupCaches as without."""
    rows, tokens = [0, 0, 1], mx.array([[3], [4], [2]])
    try:
        plain = read_prompts(model, PROBE)
        grouped = [GroupCache(layer, rows) for layer in read_prompts(model, PROBE)]
        keep(plain, rows)
        expected = model(tokens, cache=plain)
        with quick_decoding():
            found = model(tokens, cache=grouped)
    except (TypeError, AttributeError, ValueError, IndexError, KeyError):  # it reads its keys itself
        return False
    return bool(mx.allclose(found, expected, rtol=1e-4, atol=1e-4).item())
