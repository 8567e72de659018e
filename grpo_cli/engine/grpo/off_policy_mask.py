"""Off-policy sequence masking: drop bad completions that the policy itself would no longer sample.

    A = −1, 2 tokens      log π_rollout  −1, −1      log π  −2, −1.5      mean 0.75 > 0.5: dropped

A completion with a negative advantage that the current policy finds much less likely than the one that
sampled it teaches little and can make the update unstable. Its policy loss is left out; KL, entropy bonus and
its weight in the averages stay.

Source: DeepSeek-V3.2, arXiv:2512.02556, eq. 9; TRL's `off_policy_mask_threshold`.
"""

import mlx.core as mx

from grpo_cli.engine.grpo.losses import sequence_log_ratio


def is_kept(
    logprobs: mx.array, sampler_logprobs: mx.array, advantages: mx.array, mask: mx.array, threshold: float
) -> mx.array:
    """True unless A < 0 and the mean of log π_rollout − log π over the tokens is above `threshold`: (B, 1).

    Shapes: logprobs and sampler_logprobs (B, T), advantages (B, 1), mask (B, T) bool. No gradient.
    """
    moved = mx.where(mask, sampler_logprobs - mx.stop_gradient(logprobs), 0.0)
    return (advantages >= 0) | (sequence_log_ratio(moved, mask) <= threshold)
