"""Entropy of the policy: the differentiable one of the bonus, and the threshold of the token filter.

entropies(logits)                       # (B, T, V) → (B, T), nats
high_entropy_threshold([1.0, 2.0, 3.0, 4.0, 5.0], 0.25)  ==  4.0
"""

import math

import mlx.core as mx

from grpo_cli.cpu.exact_sums import logsumexp, row_sums
from grpo_cli.cpu.fast_exp import exp


def token_entropies(logits: mx.array) -> mx.array:
    """H = −Σ p · log p of every position, in nats: (B, T, V) → (B, T).

    `logits` are float32 at the sampling temperature. A token that the model rules out (−inf) has no share in
    value or gradient.
    """
    entropies: mx.array = entropy_with_gradient(logits)  # type: ignore[assignment]
    return entropies


@mx.custom_function
def entropy_with_gradient(logits: mx.array) -> mx.array:
    """The entropies, for MLX to differentiate by `entropy_gradient`."""
    logprobs = logits - logsumexp(logits)[..., None]  # (B, T, V)
    return -row_sums(exp(logprobs) * finite(logprobs))


@entropy_with_gradient.vjp
def entropy_gradient(logits: mx.array, cotangent: mx.array, entropies: mx.array) -> mx.array:
    """d H / d logit_v = −p_v · (log p_v + H): (B, T, V).

    Written out, because what MLX would keep of the forward is several times the logits.
    """
    logprobs = logits - logsumexp(logits)[..., None]
    return -cotangent[..., None] * exp(logprobs) * (finite(logprobs) + entropies[..., None])


def finite(logprobs: mx.array) -> mx.array:
    """The logprobs with 0 for −inf: its probability of 0 times −inf would be NaN."""
    return mx.where(logprobs == -mx.inf, 0.0, logprobs)


def high_entropy_threshold(entropies: list[float], share: float) -> float:
    """The entropy that a token must reach to be among the `share` of highest entropy.

    The quantile 1 − share with linear interpolation, as TRL's `top_entropy_quantile` takes it
    ("Beyond the 80/20 Rule", arXiv:2506.01939, eq. 5: τ over all tokens of the batch). −inf without tokens.
    """
    if not entropies:
        return -math.inf
    ordered = sorted(entropies)
    place = (1.0 - share) * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
