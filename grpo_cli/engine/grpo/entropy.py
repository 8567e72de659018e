"""Entropy of the policy: a differentiable entropy for the bonus, and the threshold of the token filter.

    token_entropies(logits)                                 # (B, T, V) → (B, T), nats
    high_entropy_threshold([1.0, 2.0, 3.0, 4.0, 5.0], 0.25)  ==  4.0

The bonus (entropy_coeff) rewards a policy that stays undecided and so explores. The filter
(top_entropy_quantile) trains on the tokens of highest entropy only, where the policy makes a choice.
"""

import math

import mlx.core as mx

from grpo_cli.cpu.exact_sums import logsumexp, row_sums
from grpo_cli.cpu.fast_exp import exp


def token_entropies(logits: mx.array) -> mx.array:
    """H = −Σ p · log p at every position, in nats: (B, T, V) → (B, T).

    `logits` are float32, divided by the sampling temperature. A logit of −inf adds nothing to value or
    gradient.
    """
    entropies: mx.array = entropy_with_gradient(logits)  # type: ignore[assignment]
    return entropies


@mx.custom_function
def entropy_with_gradient(logits: mx.array) -> mx.array:
    """Entropies (B, T) with `entropy_gradient` as their backward."""
    logprobs = logits - logsumexp(logits)[..., None]  # (B, T, V)
    return -row_sums(exp(logprobs) * finite(logprobs))


@entropy_with_gradient.vjp
def entropy_gradient(logits: mx.array, cotangent: mx.array, entropies: mx.array) -> mx.array:
    """d H / d logit_v = −p_v · (log p_v + H): (B, T, V).

    Written by hand, because MLX's automatic backward keeps several arrays of the size of the logits.
    """
    logprobs = logits - logsumexp(logits)[..., None]
    return -cotangent[..., None] * exp(logprobs) * (finite(logprobs) + entropies[..., None])


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
