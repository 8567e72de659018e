"""The configuration keys of the loss, of the sampling policy it corrects for, and of reused rollouts.

To add a key, add one field to its group, as in keys.py.
"""

from typing import Literal

from pydantic import Field

from grpo_cli.config.key_types import Keys, LossTypeName, PositiveInt
from grpo_cli.config.loss_types import LOSS_TYPES


class QuantizedRolloutKeys(Keys):
    """quantized rollouts"""

    quantize_for_rollouts: bool = False
    """Sample from a quantized copy of the policy (`bits` per weight): faster on Metal and CUDA. The loss
    corrects for it by truncated importance sampling; evaluation and checkpoints use the full weights.
    """
    bits: Literal[2, 3, 4, 6, 8] = 4
    """Bits per weight of the rollout quantization."""
    group_size: Literal[32, 64, 128] = 64
    """Group size of the rollout quantization."""
    importance_sampling_mode: Literal[
        "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = "token_truncate"
    """Granularity of the importance weight π_policy/π_rollout, and its treatment above the cap: truncate
    clips it, mask drops the token (or completion) from the policy loss. Sequence-level ratios use
    sequence-level weights.
    """
    importance_sampling_cap: float = Field(2.0, ge=1.0, le=1e6)
    """Cap on the importance weight π_policy/π_rollout."""
    importance_sampling_clip_min: float = Field(0.0, ge=0.0, le=1.0)
    """Lower bound on the importance weight: smaller ones are raised to it, or dropped by a mask; 0: none."""


class LossKeys(Keys):
    """loss"""

    loss_type: LossTypeName = Field(
        "dapo",
        description="Policy loss and token average: "
        + "; ".join(f"{name} ({loss.description})" for name, loss in LOSS_TYPES.items())
        + ".",
    )
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Granularity of the importance ratio: per token, or per sequence (GSPO; length-normalized, with clip_eps
    around 3e-4). loss_type gspo always uses sequences.
    """
    advantage_estimator: Literal[
        "grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "maxrl"
    ] = "grpo"
    """Advantage of a completion: grpo compares with the group's mean and scales as scale_rewards says; rloo
    with the mean of the others; reinforce_plus_plus with mean and standard deviation of the batch,
    reinforce_plus_plus_baseline with the group's mean and the batch's standard deviation; maxrl divides by
    the group's mean (for rewards that are not negative).
    """
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Scaling of advantages: divide by the group's standard deviation, by the batch's, or not at all."""
    clip_eps: float = Field(0.2, gt=0.0, lt=1.0)
    """Lower clip: the ratio new/old is clipped below 1 − clip_eps. Usual values: gspo 3e-4, luspo 2e-3; gmpo
    0.4, for the logarithm of the ratio; dppo 0.15, for a divergence.
    """
    clip_eps_high: float = Field(0.0, ge=0.0)
    """Upper clip: the ratio is clipped above 1 + clip_eps_high; 0: same as clip_eps."""
    delta: float = Field(0.0, ge=0.0)
    """Two-sided clip: upper bound on the ratio when the advantage is negative; 0: no bound."""
    sapo_temperature_pos: float = Field(1.0, gt=0.0, le=1e3)
    """sapo: steepness of the gate where the advantage is positive; higher: ratios far from 1 count less."""
    sapo_temperature_neg: float = Field(1.05, gt=0.0, le=1e3)
    """sapo: steepness of the gate where the advantage is 0 or negative."""
    vespo_k_pos: float = Field(2.0, ge=0.0, le=1e3)
    """vespo: exponent of the sequence's ratio where the advantage is positive or 0; higher: ratios below 1
    count less.
    """
    vespo_lambda_pos: float = Field(3.0, ge=0.0, le=1e3)
    """vespo: decay with the ratio where the advantage is positive or 0; higher: ratios above 1 count less."""
    vespo_k_neg: float = Field(3.0, ge=0.0, le=1e3)
    """vespo: the exponent where the advantage is negative."""
    vespo_lambda_neg: float = Field(2.0, ge=0.0, le=1e3)
    """vespo: the decay where the advantage is negative."""
    divergence_type: Literal["binary_tv", "binary_kl"] = "binary_tv"
    """dppo: divergence of the token's probability that clip_eps bounds: total variation |new − old|, or the
    KL of token against all others (with clip_eps around 0.05).
    """
    clip_ratio_c: float = Field(20.0, ge=1.0, le=1e6)
    """dppo: cap on the ratio new/old."""
    off_policy_mask_threshold: float = Field(0.0, ge=0.0, le=1e3)
    """Drop the policy loss of completions with a negative advantage whose tokens became less likely by more
    than this, in nats per token, since they were sampled (DeepSeek-V3.2; such as 0.5); 0: none.
    """
    kl_coeff: float = Field(0.0, ge=0.0)
    """Weight of the KL divergence to the reference policy; the reference is loaded only if this is above 0.
    """
    kl_reference: Literal["start", "base"] = "start"
    """Reference policy of the KL divergence: start is the policy at the run's first step, with the adapters
    it continues; base is the model without adapters.
    """
    kl_estimator: Literal["k3", "k1"] = "k3"
    """Per-token KL estimator: k3 (never negative) or k1 (new − reference logprob)."""
    use_bias_correction_kl: bool = False
    """Multiply the KL estimate by the ratio new/old, which makes its gradient unbiased (DeepSeek-V3.2)."""
    sync_ref_model: bool = False
    """Move the reference policy towards the policy every few steps (TR-DPO). Full fine-tuning only."""
    ref_model_mixup_alpha: float = Field(0.6, gt=0.0, le=1.0)
    """Share α of the policy in the synchronized reference, α · policy + (1 − α) · reference."""
    ref_model_sync_steps: PositiveInt = 512
    """Steps between synchronizations of the reference."""
    entropy_coeff: float = Field(0.0, ge=0.0)
    """Weight of the entropy bonus, averaged like the loss (dr_grpo: over max_new_tokens); 0: none."""
    router_aux_loss_coef: float = Field(0.0, ge=0.0, le=10.0)
    """Mixtures of experts: weight of the loss that keeps the experts' load even (0.001 to 0.02 in the models'
    own training); 0: none.
    """
    use_adaptive_entropy: bool = False
    """Adapt entropy_coeff (Skywork-OR1): a step up after each update whose entropy is at most entropy_target,
    a step down otherwise; the bonus is applied only in the first case. entropy_coeff is the initial value.
    """
    entropy_target: float = Field(0.2, ge=0.0, le=100.0)
    """Target of adaptive entropy: mean entropy of the trained tokens, in nats (the log's `entropy`)."""
    entropy_coeff_delta: float = Field(0.005, gt=0.0, le=100.0)
    """Step of adaptive entropy."""
    entropy_coeff_min: float = Field(0.0, ge=0.0, le=100.0)
    """Least coefficient of adaptive entropy."""
    entropy_coeff_max: float = Field(1.0, ge=0.0, le=100.0)
    """Greatest coefficient of adaptive entropy."""
    top_entropy_quantile: float = Field(1.0, gt=0.0, le=1.0)
    """Fraction of a step's tokens that have a policy loss, chosen by highest entropy; 1: all."""
    top_entropy_policy: Literal["rollout", "current"] = "rollout"
    """Policy whose entropies choose these tokens: the one that sampled, or the current one before each update
    (TRL's choice; one more forward for updates on reused or quantized rollouts).
    """
    mask_truncated_completions: bool = False
    """Exclude completions truncated at max_new_tokens from the loss and from its averages."""


class ReuseKeys(Keys):
    """from rollouts to steps"""

    num_iterations: PositiveInt = 1
    """Optimizer updates per batch of rollouts (μ)."""
    steps_per_generation: int = Field(1, ge=1, le=1024)
    """Number of steps whose rollouts are sampled at once; each step learns from its share. TRL counts
    forwards here: its value is this × gradient_accumulation_steps.
    """
    dynamic_sampling: bool = False
    """Dynamic sampling (DAPO): discard groups whose rewards are all equal and draw new prompts instead."""
    dynamic_sampling_budget: int = Field(3, ge=2, le=100)
    """Maximum batches of rollouts per generation with dynamic sampling; after that, groups with equal rewards
    fill the remaining places.
    """
