"""Entropy of the policy: a differentiable entropy for the bonus, and the threshold of the token filter.

    logprobs, entropies = logprobs_and_entropies(logits, targets)       # (B, T) each, nats
    high_entropy_threshold([1.0, 2.0, 3.0, 4.0, 5.0], 0.25)  ==  4.0

The bonus (entropy_coeff) rewards a policy that stays undecided and so explores. The filter
(top_entropy_quantile) trains on the tokens of highest entropy only, where the policy makes a choice.
"""

import math
from typing import Any

import mlx.core as mx

from grpo_cli.cpu.exact_sums import row_sums
from grpo_cli.cpu.fast_exp import exp


def logprobs_and_entropies(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """log p(target), and H = −Σ p · log p in nats, at every position: (B, T, V), (B, T) → (B, T) each.

    `logits` are float32, divided by the sampling temperature. A logit of −inf adds nothing to entropy or
    gradient.
    """
    scores: Any = in_one_pass(logits, targets)
    return scores[0], scores[1]


@mx.custom_function
def in_one_pass(logits: mx.array, targets: mx.array) -> mx.array:
    """Logprobs, entropies and logsumexp, (3, B, T): one exponential per logit."""
    top = logits.max(axis=-1, keepdims=True)
    weights = exp(logits - top)  # (B, T, V)
    total = row_sums(weights)
    normalizer = top.squeeze(-1) + mx.log(total)
    mean = row_sums(weights * finite(logits - top)) / total  # Σ p · (logit − top)
    logprobs = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1) - normalizer
    return mx.stack([logprobs, mx.log(total) - mean, normalizer])


@in_one_pass.vjp
def gradient_in_one_pass(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, scores: mx.array
) -> tuple[mx.array, mx.array]:
    """∂ log p_t / ∂ logit_v = [v = t] − p_v, and ∂H / ∂ logit_v = −p_v · (log p_v + H): (B, T, V).

    Written by hand, because MLX's automatic backward keeps several arrays of the size of the logits.
    """
    logits, targets = primals
    of_logprob, of_entropy = cotangent[0][..., None], cotangent[1][..., None]
    logprobs = logits - scores[2][..., None]
    slope = -exp(logprobs) * (of_logprob + of_entropy * (finite(logprobs) + scores[1][..., None]))
    places = targets[..., None]
    at_targets = mx.take_along_axis(slope, places, axis=-1) + of_logprob
    return mx.put_along_axis(slope, places, at_targets, axis=-1), mx.zeros_like(targets)


def finite(logprobs: mx.array) -> mx.array:
    """The logprobs with −inf replaced by 0, since p · log p would be 0 · −inf = NaN."""
    return mx.where(logprobs == -mx.inf, 0.0, logprobs)


def high_entropy_threshold(entropies: list[float], share: float) -> float:
    """The least entropy of the `share` of tokens with the highest entropy.

    The quantile 1 − share with linear interpolation, as in TRL's `top_entropy_quantile` ("Beyond the 80/20
    Rule", arXiv:2506.01939, eq. 5: τ over all tokens of the batch). −inf for an empty list.
    """
    if not entropies:
        return -math.inf
    ordered = sorted(entropies)
    place = (1.0 - share) * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
