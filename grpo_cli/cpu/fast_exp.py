"""The exponential and what is made of it, as quick as the device can.

MLX's build for Linux on x86 computes `mx.exp` one number after the other, through a call for every
multiplication: 8.6 ns a number, and 13.3 for `mx.sigmoid`. `mx.power` leads to the C library's own
routine: 2.9 ns, with half the error (5e-7 instead of 8e-7 of the value). In a decoding step of a small
model exponentials are a third of the time: of the activations, of the attention, of the draw.
"""

import functools
import platform

import mlx.core as mx

from grpo_cli import device

EULER = 2.718281828459045  # as float32 its logarithm is 1 − 3e-8: e^x is off by 3e-8 · |x| of its value


@functools.cache
def has_slow_exp() -> bool:
    """Whether `mx.exp` is the slow one."""
    return device.prepare().kind == "cpu" and platform.machine().lower() in ("x86_64", "amd64")


def exp(x: mx.array) -> mx.array:
    """e^x of any shape; 0 at −∞."""
    return mx.power(EULER, x) if has_slow_exp() and x.dtype == mx.float32 else mx.exp(x)


def sigmoid_by_power(x: mx.array) -> mx.array:
    """1 / (1 + e^−x) of any shape: 0 at −∞ and 1 at ∞."""
    return 1.0 / (1.0 + mx.power(EULER, -x))
