"""Comparison of two ways to compute the same logits.

Logits are sums over thousands of products, so the order of summation changes them in proportion to their
size: 2e-4 of 23 is rounding, and 2e-4 of 0.01 a mistake only if all logits are that small.
"""

from typing import Any

import mlx.core as mx

EXACT, ROUNDED = 1e-4, 1e-2  # allowed difference relative to the largest logit: float32, half precision


def same_logits(found: mx.array, expected: mx.array) -> bool:
    """True if two arrays of logits differ by rounding only; False if a number is NaN or the shapes differ."""
    if found.shape != expected.shape:
        return False
    difference: Any = mx.abs(found - expected).max().item()
    largest: Any = mx.abs(expected).max().item()
    is_exact = expected.dtype == mx.float32
    return bool(difference <= (EXACT if is_exact else ROUNDED) * largest)
