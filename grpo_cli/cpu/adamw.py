"""Adam and AdamW on a CPU, in chunks that stay in the processor's cache; the same bits as MLX's.

    rule = ChunkedAdamW(1e-6, betas=[0.9, 0.99], weight_decay=0.1)     # used as mlx.optimizers.AdamW

MLX's CPU computes each of the update's fifteen operations over a whole array, on one thread, so every one of
them reads and writes main memory. Here NumPy computes all of them on a chunk before the next, on all cores.

Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.
"""

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

CHUNK = 1 << 16  # numbers; smaller chunks cost more calls than they save memory traffic
ALONE = 1 << 18  # arrays up to this size are updated by one thread

Vector = np.ndarray[Any, np.dtype[np.float32]]


class ChunkedAdamW(optim.AdamW):
    """MLX's AdamW with bias correction, computed at once; Adam with a weight decay of 0."""

    def __init__(self, learning_rate: float, betas: list[float], weight_decay: float = 0.0) -> None:
        super().__init__(learning_rate, betas=betas, weight_decay=weight_decay, bias_correction=True)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        """The updated weight, evaluated, of any shape in float32. Replaces the moments in `state`."""
        old = [gradient, parameter, state["m"], state["v"]]
        if not parameter.size or any(array.dtype != mx.float32 for array in old):
            whole: mx.array = super().apply_single(gradient, parameter, state)
            return whole
        new = [mx.empty(parameter.shape) for _ in range(3)]
        mx.eval(old, new)
        update = functools.partial(write_updated, self.factors(), vectors(old), vectors(new))
        parts = 1 if parameter.size <= ALONE else cores()
        length = -(-math.ceil(parameter.size / parts) // CHUNK) * CHUNK
        starts = range(0, parameter.size, length)
        if len(starts) == 1:
            update(0, parameter.size)
        else:
            list(threads().map(update, starts, [start + length for start in starts]))
        weight, state["m"], state["v"] = new
        return weight

    def factors(self) -> tuple[np.float32, ...]:
        """The numbers of this step, computed by MLX as MLX's own update does: 1 − lr·wd, c₁, c₂, β and ε."""
        rate, (b1, b2), step = self.learning_rate.astype(mx.float32), self.betas, self.step
        computed: list[Any] = [
            1 - rate * self.weight_decay, rate / (1 - b1**step), mx.rsqrt(1 - b2**step)
        ]  # fmt: skip
        numbers = [array.astype(mx.float32).item() for array in computed]
        return tuple(np.float32(number) for number in (*numbers, b1, 1 - b1, b2, 1 - b2, self.eps))


def vectors(arrays: list[mx.array]) -> list[Vector]:
    """Evaluated arrays as vectors: views of the same memory, but copies of arrays that are not contiguous."""
    return [np.array(array, copy=False).reshape(-1) for array in arrays]


@np.errstate(all="ignore")  # guards/nonfinite.py reports numbers that are not finite
def write_updated(
    factors: tuple[np.float32, ...], old: list[Vector], new: list[Vector], start: int, end: int
) -> None:
    """Write the new weight, m and v from `start` to `end`, chunk by chunk, in MLX's order of operations.

    `old`: gradient, weight, m and v.
    """
    decay, c1, c2, b1, rest1, b2, rest2, eps = factors
    (gradient, old_weight, old_m, old_v), (weight, m, v) = old, new
    spare = np.empty((2, CHUNK), dtype=np.float32)
    for low in range(start, min(end, weight.size), CHUNK):
        part = slice(low, min(low + CHUNK, weight.size))
        g, x, y = gradient[part], *spare[:, : part.stop - low]
        np.multiply(old_m[part], b1, out=m[part])
        m[part] += np.multiply(g, rest1, out=x)
        np.multiply(np.square(g, out=x), rest2, out=x)
        np.multiply(old_v[part], b2, out=v[part])
        v[part] += x
        np.multiply(np.sqrt(v[part], out=x), c2, out=x)
        x += eps
        np.divide(np.multiply(m[part], c1, out=y), x, out=y)
        np.multiply(old_weight[part], decay, out=weight[part])
        weight[part] -= y


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def threads() -> ThreadPoolExecutor:
    """The threads of all updates; NumPy computes without the interpreter's lock."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="adamw")
