"""Entropy of the policy: the differentiable one of the bonus, and the threshold of the token filter.

entropies(logits)                       # (B, T, V) → (B, T), nats
high_entropy_threshold([1.0, 2.0, 3.0, 4.0, 5.0], 0.25)  ==  4.0
"""

import math

import mlx.core as mx


def token_entropies(logits: mx.array) -> mx.array:
    """H = log Σ exp(logit) − Σ p · logit of every position, in nats: (B, T, V) → (B, T).

    `logits` are float32 at the sampling temperature. d H / d logit_v = −p_v · (log p_v + H). A token that the
    model rules out (−inf) has no share in value or gradient.
    """
    probabilities = mx.softmax(logits, axis=-1)
    finite = mx.where(logits == -mx.inf, 0.0, logits)  # 0 · −inf would be NaN, in the gradient, too
    return mx.logsumexp(logits, axis=-1) - (probabilities * finite).sum(axis=-1)


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
