"""Sums over a vocabulary or a whole array, exact to a few units in float32's last place.

    logsumexp(logits)        # (…, V) → (…)
    total(gradient.square()) # all numbers

On a CPU MLX adds up a long row in a few running sums, which lose small summands: float32 has 24 bits, so the
sum of equal numbers stops growing after 2²⁴ of them. Error against float64, before and now:

    logsumexp of 262,144 flat logits     4.8e-4      1e-6
    Σ g² of 10⁸ numbers                  0.48        3e-7 of the sum

Here short blocks are summed first and then their sums, so the error grows with the logarithm of the length.
The loss, the old logprobs, the reference and the entropies all use the same logsumexp, which equals that of
the sampler.
"""

from typing import Any

import mlx.core as mx

from grpo_cli import device
from grpo_cli.cpu.fast_exp import exp

BLOCK = 256  # tokens per block; sampling first draws a block by its sum
SHORT = 64  # numbers per running sum: with equal numbers 64 lose 1e-6 of the sum, 1024 lose 1e-5
CHUNK = 1024  # numbers per running sum over a whole array, whose numbers are never all equal


def block_sums(rows: mx.array, size: int = BLOCK) -> mx.array:
    """Sums of `rows` (…, V) over blocks of `size` numbers: (…, ⌈V / size⌉)."""
    *shape, length = rows.shape
    whole = length - length % size
    sums = rows[..., :whole].reshape(*shape, -1, size).sum(axis=-1)
    if whole == length:
        return sums
    return mx.concatenate([sums, rows[..., whole:].sum(axis=-1, keepdims=True)], axis=-1)


def row_sums(rows: mx.array) -> mx.array:
    """Sums of `rows` over their last axis: (…, V) → (…)."""
    while rows.shape[-1] > SHORT:
        rows = block_sums(rows, SHORT)
    return rows.sum(axis=-1)


def running_sums(rows: mx.array) -> mx.array:
    """Cumulative sums of `rows` along their last axis: (B, V) → (B, V)."""
    length = rows.shape[1]
    padded = mx.pad(rows, [(0, 0), (0, -length % BLOCK)]).reshape(len(rows), -1, BLOCK)
    within = mx.cumsum(padded, axis=-1)  # (B, blocks, BLOCK)
    before = mx.cumsum(within[..., -1], axis=-1, inclusive=False)  # (B, blocks)
    return (within + before[..., None]).reshape(len(rows), -1)[:, :length]


def total(array: mx.array) -> mx.array:
    """The sum of all numbers of an array, a float32 scalar."""
    left = array.astype(mx.float32).reshape(-1)
    rest = mx.zeros(())
    while left.size > CHUNK:
        whole = left.size - left.size % CHUNK
        rest = rest + left[whole:].sum()
        left = left[:whole].reshape(-1, CHUNK).sum(axis=-1)
    return rest + left.sum()


def logsumexp(logits: mx.array) -> mx.array:
    """log Σ exp over the last axis of float32 `logits`: (…, V) → (…), differentiable.

    Logits of −inf contribute nothing to value or gradient. Other devices than the CPU use MLX's own
    logsumexp, which is exact there, since they add many short sums in parallel.
    """
    if device.prepare().kind != "cpu":
        return mx.logsumexp(logits, axis=-1)
    result: Any = _blockwise(logits)
    return result


@mx.custom_function
def _blockwise(logits: mx.array) -> mx.array:
    top = logits.max(axis=-1, keepdims=True)
    return top.squeeze(-1) + mx.log(row_sums(exp(logits - top)))


@_blockwise.vjp
def _softmax(logits: mx.array, cotangent: mx.array, value: mx.array) -> mx.array:
    """The gradient, the softmax: (…, V). Written by hand, so that only the logits are stored for it."""
    return cotangent[..., None] * exp(logits - value[..., None])
