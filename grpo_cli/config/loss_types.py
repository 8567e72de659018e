"""The values of `loss_type`: one line each. The schema, the rules and the engine read this table.

    LOSS_TYPES["gspo"].by_sequence == True

A loss type combines two choices by the names of their functions: the loss of one token (`token_loss`, in
engine/grpo/losses.py) and the weight of that token in the step's loss (`averaging`, in
engine/grpo/averaging.py).

To add a loss type, give it a line here. It needs a new function there only if no present one fits.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LossType:
    """A value of `loss_type`, and what the other keys can do with it."""

    description: str  # follows the name in the description of the key
    token_loss: str
    averaging: str
    has_ratio: bool = True  # False: strictly on-policy, one update per batch of rollouts
    has_clip: bool = True  # False: `delta` has no effect
    scales_rewards: bool = True  # False: `scale_rewards` is ignored, advantages are reward − mean
    by_sequence: bool = False  # True: one ratio per sequence, whatever importance_sampling_level says
    by_token: bool = False  # True: one ratio per token; importance_sampling_level = "sequence" is refused
    # Use of the importance weight π_old/π_rollout if a quantized copy sampled. factor: it multiplies the
    # policy loss; inside: the token loss takes it in; none: the ratio of the loss is π/π_rollout itself.
    sampler_weight: Literal["factor", "inside", "none"] = "factor"
    own_keys: tuple[str, ...] = ()  # keys that have an effect with this loss only


LOSS_TYPES = {
    "grpo": LossType(
        description="averaged by sequence", token_loss="clipped_surrogate", averaging="by_sequence"
    ),
    "bnpo": LossType(
        description="averaged by forward", token_loss="clipped_surrogate", averaging="by_forward"
    ),
    "dapo": LossType(
        description="averaged over the step's tokens", token_loss="clipped_surrogate", averaging="by_token"
    ),
    "dr_grpo": LossType(
        description="averaged by max_new_tokens", token_loss="clipped_surrogate", averaging="by_budget"
    ),
    "cispo": LossType(
        description="bounded weights",
        token_loss="weighted_policy_gradient",
        averaging="by_token",
        has_clip=False,
    ),
    "gspo": LossType(
        description="one ratio per sequence",
        token_loss="clipped_surrogate",
        averaging="by_sequence",
        by_sequence=True,
    ),
    "luspo": LossType(
        description="gspo by length",
        token_loss="clipped_surrogate",
        averaging="by_sequence_sum",
        by_sequence=True,
    ),
    "gmpo": LossType(
        description="geometric mean of ratios",
        token_loss="geometric_mean",
        averaging="by_sequence",
        has_clip=False,
        by_sequence=True,
    ),
    "sapo": LossType(
        description="smooth gate",
        token_loss="soft_gate",
        averaging="by_sequence",
        has_clip=False,
        own_keys=("sapo_temperature_pos", "sapo_temperature_neg"),
    ),
    "vespo": LossType(
        description="smooth sequence weight",
        token_loss="gamma_weighted_gradient",
        averaging="by_token",
        has_clip=False,
        by_token=True,
        sampler_weight="inside",
        own_keys=("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
    ),
    "dppo": LossType(
        description="bounded divergence",
        token_loss="divergence_bounded_gradient",
        averaging="by_token",
        has_clip=False,
        by_token=True,
        sampler_weight="none",
        own_keys=("divergence_type", "clip_ratio_c"),
    ),
    "reinforce": LossType(
        description="nanochat's",
        token_loss="policy_gradient",
        averaging="by_token",
        has_ratio=False,
        has_clip=False,
        scales_rewards=False,
    ),
}
