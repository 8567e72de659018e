"""Truncated importance sampling: correct the loss for tokens that a quantized copy of the policy sampled.

    w = exp(log π_old − log π_rollout)       truncate: min(w, cap)        mask: w, and 0 above cap

A lower bound (`importance_sampling_clip_min`) raises smaller weights to it, or masks them.

With quantize_for_rollouts a rounded copy of the policy samples, π_rollout. π_old is the policy itself at that
time; its logprobs come from the training forward. Weighted by w, the average over rollouts is the average
over the policy's own completions, except for what the cap cuts off. The ratio π/π_old of the loss stays
exactly 1 on policy. w is a constant (no gradient). It multiplies the policy loss of a token, but not its KL,
its entropy bonus or its weight in the average.

    π_old  0.5   0.2   0.1        log ratios   0.9163   0   −1.3863
    π_roll 0.2   0.2   0.4        w            2.5      1    0.25       with cap 2: 2, 1, 0.25 or 0, 1, 0.25

Modes `token_…`: one w per token (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy
RL Training", "truncated importance sampling"; TRL's vllm_importance_sampling_mode). Modes `sequence_…`: one w
per completion, exp Σ (log π_old − log π_rollout), as in TRL. GSPO's ratio is divided by the length of the
completion, this weight is not: the probability of a completion is the product over its tokens.

If top_k, top_p or min_p restrict sampling, completions are drawn from q = π_rollout / m, where m is the
probability mass that is kept. Exactly, w would be (π_old / m_old) / (π_rollout / m). It is computed without
the masses, as the loss is (sampling.py): an error by the factor m / m_old, which is near 1.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from grpo_cli.config.schema import Config

MOST = 20.0  # bound of |log w|, so that a mean of weights stays finite: e^20 = 5e8 is above any cap


class ImportanceWeights(NamedTuple):
    """Importance weights w: (B, S) per token or (B, 1) per completion."""

    bounded: mx.array  # after the bounds: the factor of the policy loss
    raw: mx.array  # before the bounds
    cut: mx.array  # bool: beyond one of them


@dataclass(frozen=True)
class Correction:
    """The importance-sampling correction: granularity and bounds of the weights."""

    mode: str = "token_truncate"  # token_… | sequence_…, …_truncate | …_mask
    cap: float = 2.0
    least: float = 0.0  # 0: no lower bound

    @staticmethod
    def of(config: Config) -> "Correction | None":
        """The configured correction; None if the policy itself samples."""
        if not config.quantize_for_rollouts:
            return None
        least = config.importance_sampling_clip_min
        return Correction(config.importance_sampling_mode, config.importance_sampling_cap, least)

    def weights(self, log_ratio: mx.array, mask: mx.array, by_sequence: bool = False) -> ImportanceWeights:
        """Importance weights of log ratios (B, S), without gradient. `mask` (B, S): the tokens that count.

        `by_sequence`: one w per completion whatever the mode, for losses with one ratio per completion.
        """
        log_ratio = mx.stop_gradient(mx.where(mask, log_ratio, 0.0))
        if by_sequence or self.mode.startswith("sequence"):
            log_ratio = log_ratio.sum(axis=-1, keepdims=True)  # (B, 1)
        raw = mx.exp(mx.clip(log_ratio, -MOST, MOST))
        cut = (raw > self.cap) | (raw < self.least)
        truncated = mx.clip(raw, self.least, self.cap)
        bounded = mx.where(cut, 0.0, raw) if self.mode.endswith("mask") else truncated
        return ImportanceWeights(bounded, raw, cut)


@dataclass
class WeightStats:
    """Sum, maximum and number of bounded importance weights, for the log."""

    total: float = 0.0  # Σ w before the bounds
    most: float = 0.0
    cut: float = 0.0  # tokens beyond the bounds
    tokens: int = 0

    def add(self, other: "WeightStats") -> None:
        """Add the statistics of other tokens."""
        # A NaN must stay visible, but max(1.0, nan) is 1.0.
        self.most = math.nan if math.isnan(other.most) else max(self.most, other.most)
        self.total += other.total
        self.cut += other.cut
        self.tokens += other.tokens

    def numbers(self) -> dict[str, float | None]:
        """Log metrics: mean, maximum and share of capped weights; None if no token was trained."""
        tokens = self.tokens
        return {
            "importance_sampling_ratio_mean": self.total / tokens if tokens else None,
            "importance_sampling_ratio_max": self.most if tokens else None,
            "importance_sampling_capped": self.cut / tokens if tokens else None,
        }


def summed(weights: ImportanceWeights, mask: mx.array) -> mx.array:
    """(3,): sum and maximum of w before its bounds, and the number beyond them, over the tokens in `mask`."""
    counted = mx.where(mask, weights.raw, 0.0)  # (B, S)
    return mx.stack([counted.sum(), counted.max(), (mask & weights.cut).sum().astype(mx.float32)])
