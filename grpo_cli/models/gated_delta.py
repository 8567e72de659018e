"""The gated delta rule in chunks: a few matrix products instead of one step of a recurrence per token.

    with chunked_gated_delta():
        logits = model(ids, cache=cache)        # qwen3_5, qwen3_next, …, forward and gradient

Each head keeps a state S (Dv, Dk). Token t, with key k, query q, value v, decay g and rate β, does

    u_t = β_t (v_t − g_t S_{t−1} k_t)        S_t = g_t S_{t−1} + u_t k_tᵀ        y_t = S_t q_t

mlx-lm computes this token by token where it has no kernel (on a CPU and on CUDA) and wherever a gradient is
needed, and the gradient stores S for every token: 1 MB per token, layer and row in Qwen3.5. Here the tokens
of a chunk are solved at once. With D_ti = Π_{i<j≤t} g_j and A_ti = β_t D_ti k_t·k_i for i < t

    (I + A) U = diag(β) (V − diag(D_t0) K S_0ᵀ)
    Y = diag(D_t0) Q S_0ᵀ + (D ∘ Q Kᵀ) U        S_C = D_C0 S_0 + Uᵀ diag(D_Ci) K

so S is stored once per chunk. Results differ from the recurrence's by rounding.

Source: Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks", arXiv:2412.06464, section 3.3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.models import gated_delta

from grpo_cli import device

CHUNKS = {"cpu": 16}  # tokens that are solved at once: few where products of small matrices cost little,
CHUNK = 64  # on other devices more, so that each has enough to do
BASE = 8  # rows of the triangular blocks that are inverted by powers
LEAST = 1e-37  # a decay below it is as good as 0, and its logarithm is finite

one_by_one: Any = gated_delta.gated_delta_ops  # mlx-lm's recurrence


def chunked(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array | None = None,
    mask: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Outputs (B, T, Hv, Dv) and the last state (B, Hv, Dv, Dk), as `mlx_lm`'s `gated_delta_ops`.

    q, k: (B, T, Hk, Dk). v: (B, T, Hv, Dv). g, beta: (B, T, Hv). `mask` (B, T): False leaves the state as it
    is. A decay for each channel (g of four dimensions) and single tokens go to mlx-lm's recurrence.
    """
    rows, length, key_heads, width = k.shape
    heads = v.shape[2]
    if g.ndim != 3 or length == 1:
        result: tuple[mx.array, mx.array] = one_by_one(q, k, v, g, beta, state, mask)
        return result
    if mask is not None:
        g, beta = mx.where(mask[..., None], g, 1.0), mx.where(mask[..., None], beta, 0.0)
    size = CHUNKS.get(device.prepare().kind, CHUNK)
    repeats = heads // key_heads
    by_chunk = [in_chunks(x.astype(mx.float32), size) for x in (q, k, v, g[..., None], beta[..., None])]
    queries, keys, values, decays, rates = by_chunk  # (N, B, H, C, D)
    if repeats > 1:
        queries, keys = mx.repeat(queries, repeats, axis=2), mx.repeat(keys, repeats, axis=2)
    if state is None:
        state = mx.zeros((rows, heads, v.shape[3], width), dtype=mx.float32)
    # A padded token at the end has decay 0 in `in_chunks`: set to 1, its rate stays 0.
    decays = mx.where(places(len(decays), size, length), decays, 1.0)
    outputs, last = solve(queries, keys, values, decays[..., 0], rates, state.astype(mx.float32))
    whole = outputs.transpose(1, 0, 3, 2, 4).reshape(rows, -1, heads, v.shape[3])  # (B, N·C, Hv, Dv)
    return whole[:, :length].astype(q.dtype), last


def in_chunks(x: mx.array, size: int) -> mx.array:
    """(B, T, H, D) to (N, B, H, C, D): N chunks of `size` tokens, the last one padded with zeros."""
    rows, length, heads, width = x.shape
    x = mx.pad(x, [(0, 0), (0, -length % size), (0, 0), (0, 0)])
    return x.reshape(rows, -1, size, heads, width).transpose(1, 0, 3, 2, 4)


def places(chunks: int, size: int, length: int) -> mx.array:
    """True for tokens, False for the padding behind them: (N, 1, 1, C, 1)."""
    return (mx.arange(chunks * size) < length).reshape(chunks, 1, 1, size, 1)


def solve(
    queries: mx.array, keys: mx.array, values: mx.array, decays: mx.array, rates: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """Outputs (N, B, H, C, Dv) and the last state. All but the state is computed for all chunks at once."""
    within = decay_between(decays)  # (N, B, H, C, C) D_ti, 0 above the diagonal
    since = mx.cumprod(decays, axis=-1)[..., None]  # (N, B, H, C, 1) D_t0
    turned = keys.swapaxes(-1, -2)
    inverse = unit_lower_inverse(mx.tril(rates * within * (keys @ turned), -1))
    own = inverse @ (rates * values)  # (N, B, H, C, Dv) U for a state of 0
    seen = inverse @ (rates * since * keys)  # (N, B, H, C, Dk): U = own − seen Sᵀ
    reads = within * (queries @ turned)  # (N, B, H, C, C)
    to_end = within[..., -1:, :].swapaxes(-1, -2) * keys  # (N, B, H, C, Dk)
    outputs = []
    for n in range(len(keys)):
        written = own[n] - seen[n] @ state.swapaxes(-1, -2)  # (B, H, C, Dv)
        outputs.append(since[n] * (queries[n] @ state.swapaxes(-1, -2)) + reads[n] @ written)
        state = since[n, ..., -1:, :] * state + written.swapaxes(-1, -2) @ to_end[n]
    return mx.stack(outputs), state


def decay_between(decays: mx.array) -> mx.array:
    """D_ti = Π_{i<j≤t} g_j for i ≤ t, else 0: (…, C) to (…, C, C).

    Summed for each pair by itself: a difference of two long sums would lose digits.
    """
    logs = mx.log(mx.maximum(decays, LEAST))
    size = decays.shape[-1]
    pairs = mx.broadcast_to(logs[..., None], (*logs.shape, size))  # (…, j, i)
    sums = mx.cumsum(mx.tril(pairs, -1), axis=-2)  # (…, t, i): j from i + 1 to t
    return mx.tril(mx.exp(sums))


def unit_lower_inverse(lower: mx.array) -> mx.array:
    """(I + A)⁻¹ for strictly lower triangular A (…, C, C), where C is BASE times a power of two.

    Blocks of BASE rows by (I − A)(I + A²)(I + A⁴), which is exact as A⁸ = 0; then pairs of blocks:

        [[L, 0], [M, R]]⁻¹ = [[L⁻¹, 0], [−R⁻¹ M L⁻¹, R⁻¹]]
    """
    size = BASE
    blocks = diagonal_blocks(lower, size)  # (…, C / 8, 8, 8)
    square = blocks @ blocks
    one = mx.eye(size)
    inverse = (one - blocks) @ (one + square) @ (one + square @ square)
    while size < lower.shape[-1]:
        left, right = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        below = diagonal_blocks(lower, 2 * size)[..., size:, :size]
        corner = -(right @ below @ left)
        upper = mx.concatenate([left, mx.zeros_like(left)], axis=-1)
        inverse = mx.concatenate([upper, mx.concatenate([corner, right], axis=-1)], axis=-2)
        size *= 2
    return inverse.squeeze(-3)


def diagonal_blocks(square: mx.array, size: int) -> mx.array:
    """The blocks of `size` rows on the diagonal: (…, C, C) to (…, C / size, size, size)."""
    count = square.shape[-1] // size
    tiles = square.reshape(*square.shape[:-2], count, size, count, size)
    return mx.stack([tiles[..., at, :, at, :] for at in range(count)], axis=-3)


@contextmanager
def chunked_gated_delta() -> Iterator[None]:
    """Within the block mlx-lm's models compute the gated delta rule in chunks, where they use no kernel."""
    kept: Any = gated_delta.gated_delta_ops
    gated_delta.gated_delta_ops = chunked
    try:
        yield
    finally:
        gated_delta.gated_delta_ops = kept
