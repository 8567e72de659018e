"""KL(policy ‖ reference) by token, estimated from the logprobs of the sampled tokens.

    k1 = log π − log ref            unbiased, of either sign
    k3 = ref/π − log(ref/π) − 1     unbiased, never negative, of less variance

Both from Schulman 2020, "Approximating KL Divergence"; k3 is GRPO's eq. 4 (arXiv:2402.03300). As a term of
the loss their gradient is not the KL's: k1's is 0 on average, k3's that of the reversed KL, as long as the
sampling is not differentiated ("On a few pitfalls in KL divergence gradient estimation for RL",
arXiv:2506.09477). `corrected` does that: multiplied by the importance ratio π/π_old, the estimate holds for
the policy whatever the tokens were sampled with, and so does its gradient (DeepSeek-V3.2, arXiv:2512.02556,
"Unbiased KL Estimate"; TRL's `use_bias_correction_kl`).
"""

from collections.abc import Callable

import mlx.core as mx


def k1_divergence(logprobs: mx.array, ref_logprobs: mx.array) -> mx.array:
    """logp − ref by token. Shapes (B, T); d/dlogp = 1."""
    return logprobs - ref_logprobs


def k3_divergence(logprobs: mx.array, ref_logprobs: mx.array) -> mx.array:
    """exp(ref − logp) − (ref − logp) − 1 by token. Shapes (B, T); d/dlogp = 1 − exp(ref − logp)."""
    difference = ref_logprobs - logprobs
    return mx.exp(difference) - difference - 1.0


def corrected(divergence: mx.array, log_ratio: mx.array) -> mx.array:
    """The estimate times π/π_old, differentiable in both: (B, T).

    `log_ratio` (B, T) by token, or (B, 1) by sequence, is the loss's own (as in TRL), before any clip.
    """
    return mx.exp(log_ratio) * divergence


ESTIMATORS: dict[str, Callable[[mx.array, mx.array], mx.array]] = {
    "k1": k1_divergence,
    "k3": k3_divergence,
}
