"""Estimators of KL(policy ‖ reference) per token, from the logprobs of the sampled tokens alone.

    k1 = log π − log ref            unbiased, positive or negative
    k3 = ref/π − log(ref/π) − 1     unbiased, never negative, less variance

The KL term (kl_coeff) keeps the policy near the reference, which is the initial policy. Both estimators are
from Schulman 2020, "Approximating KL Divergence"; k3 is GRPO's eq. 4 (arXiv:2402.03300).

Their values are unbiased, but their gradients are not the gradient of the KL: that of k1 is 0 on average, and
that of k3 belongs to the reversed KL ("On a few pitfalls in KL divergence gradient estimation for RL",
arXiv:2506.09477). The reason is that the sampling of the tokens depends on the policy, too. `corrected`
accounts for it by the factor π/π_old, which makes value and gradient unbiased, also off policy
(DeepSeek-V3.2, arXiv:2512.02556, "Unbiased KL Estimate"; TRL's `use_bias_correction_kl`).
"""

from collections.abc import Callable

import mlx.core as mx


def k1_divergence(logprobs: mx.array, ref_logprobs: mx.array) -> mx.array:
    """k1 = logp − ref for each token. Shapes (B, T); d/dlogp = 1."""
    return logprobs - ref_logprobs


def k3_divergence(logprobs: mx.array, ref_logprobs: mx.array) -> mx.array:
    """k3 = exp(ref − logp) − (ref − logp) − 1 for each token, (B, T); d/dlogp = 1 − exp(ref − logp)."""
    difference = ref_logprobs - logprobs
    return mx.exp(difference) - difference - 1.0


def corrected(divergence: mx.array, log_ratio: mx.array) -> mx.array:
    """The KL estimate times the ratio π/π_old, with a gradient through both factors: (B, T).

    `log_ratio` is that of the policy loss before clipping, as in TRL: (B, T) per token, (B, 1) per sequence.
    """
    return mx.exp(log_ratio) * divergence


ESTIMATORS: dict[str, Callable[[mx.array, mx.array], mx.array]] = {
    "k1": k1_divergence,
    "k3": k3_divergence,
}
