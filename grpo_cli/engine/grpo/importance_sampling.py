"""Truncated importance sampling: tokens that another policy sampled, weighted as if the trained one had.

    w = exp(log π_old − log π_rollout)       truncate: min(w, cap)        mask: w, and 0 above cap

π_old is the policy as it was when it was sampled from, computed by the training forward; π_rollout what was
really sampled from: its quantised copy. With w the expectation over rollouts is that over the policy, up to
what the cap cuts off, and the ratio π/π_old of the loss stays exactly 1 on policy. w is a constant: it
multiplies a token's policy loss, neither its KL nor its entropy bonus, and no weight in the averages.

    π_old  0.5   0.2   0.1        log ratios   0.9163   0   −1.3863
    π_roll 0.2   0.2   0.4        w            2.5      1    0.25       with cap 2: 2, 1, 0.25 or 0, 1, 0.25

By token (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training",
"truncated importance sampling"; TRL's vllm_importance_sampling_mode `token_…`), or by sequence, with one w
for a completion, exp Σ (log π_old − log π_rollout), as in TRL's `sequence_…`: not length-normalised, unlike
the ratio of GSPO, since it is a change of measure and not a trust region.

Where top_k, top_p or min_p cut the sampled distribution to q = π_rollout / m, the cut and its mass m are
constants of the sampling here as in the loss (sampling.py): both policies are cut and divided alike, m
cancels in w, and what stays is the factor m_old / m of the same tokens, near 1.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from grpo_cli.config.schema import Config

MOST = 20.0  # of |log w|, so that a mean of weights stays a number: e^20 = 5e8 is beyond any cap


class ImportanceWeights(NamedTuple):
    """w of every token, (B, S), or of every completion, (B, 1)."""

    bounded: mx.array  # as the loss has it
    raw: mx.array  # before the cap
    cut: mx.array  # bool: above the cap


@dataclass(frozen=True)
class Correction:
    """How importance weights are bounded."""

    mode: str = "token_truncate"  # token_… | sequence_…, …_truncate | …_mask
    cap: float = 2.0

    @staticmethod
    def of(config: Config) -> "Correction | None":
        """The configured correction; None where the policy itself is sampled from."""
        if not config.quantize_for_rollouts:
            return None
        return Correction(config.importance_sampling_mode, config.importance_sampling_cap)

    def weights(self, log_ratio: mx.array, mask: mx.array, by_sequence: bool = False) -> ImportanceWeights:
        """Constant weights of log ratios (B, S), 0 where they do not count.

        `by_sequence`: one w for a completion whatever the mode, as where the loss has one ratio for it.
        """
        log_ratio = mx.stop_gradient(mx.where(mask, log_ratio, 0.0))
        if by_sequence or self.mode.startswith("sequence"):
            log_ratio = log_ratio.sum(axis=-1, keepdims=True)  # (B, 1)
        raw = mx.exp(mx.clip(log_ratio, -MOST, MOST))
        cut = raw > self.cap
        bounded = mx.where(cut, 0.0, raw) if self.mode.endswith("mask") else mx.minimum(raw, self.cap)
        return ImportanceWeights(bounded, raw, cut)


@dataclass
class WeightStats:
    """What the weights of some tokens were."""

    total: float = 0.0  # Σ w before the cap
    most: float = 0.0
    cut: float = 0.0  # tokens above the cap
    tokens: int = 0

    def add(self, other: "WeightStats") -> None:
        """Take in those of other tokens."""
        # A weight that is no number must show, and max(1.0, nan) is 1.0.
        self.most = math.nan if math.isnan(other.most) else max(self.most, other.most)
        self.total += other.total
        self.cut += other.cut
        self.tokens += other.tokens

    def numbers(self) -> dict[str, float | None]:
        """For the log: null where no token was trained."""
        tokens = self.tokens
        return {
            "importance_sampling_ratio_mean": self.total / tokens if tokens else None,
            "importance_sampling_ratio_max": self.most if tokens else None,
            "importance_sampling_capped": self.cut / tokens if tokens else None,
        }


def summed(weights: ImportanceWeights, mask: mx.array) -> mx.array:
    """(3,): Σ w before the cap, the largest, and how many are above the cap, over the tokens that count."""
    counted = mx.where(mask, weights.raw, 0.0)  # (B, S)
    return mx.stack([counted.sum(), counted.max(), (mask & weights.cut).sum().astype(mx.float32)])
