"""Every loss type with every option, and ways to cut its step: each against a plain loop."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.update.batch import Counting, Microbatch, make_microbatches
from grpo_cli.engine.update.forward import ForwardPlan, token_logprobs
from grpo_cli.engine.update.gradient import Gradients, UpdateResult, accumulate, global_norm
from grpo_cli.engine.update.objective import Objective
from grpo_cli.engine.update.packing import Budget
from grpo_cli.models.load import Policy
from grpo_cli.types import RolloutGroup, StopReason
from tests.support.gradients import largest_difference
from tests.support.plain_loss import logits_of, logprobs_of, plain_loss
from tests.support.random_models import group, nanochat_policy, rollout
from tests.support.update_groups import nearby_reference

BASE: dict[str, Any] = {
    "temperature": 0.8, "clip_eps": 0.2, "clip_eps_high": 0.3, "batch_size": 2, "max_new_tokens": 6,
}  # fmt: skip
KL = {"kl_coeff": 0.5}
OPTIONS: dict[str, dict[str, Any]] = {
    "alone": {},
    "k3": KL,
    "k1": {**KL, "kl_estimator": "k1"},
    "corrected k3": {**KL, "use_bias_correction_kl": True},
    "corrected k1": {**KL, "kl_estimator": "k1", "use_bias_correction_kl": True},
    "masked": {"mask_truncated_completions": True},
    "bonus": {"entropy_coeff": 0.3},
    "top entropy": {"top_entropy_quantile": 0.4},
    "all": {
        **KL, "use_bias_correction_kl": True, "mask_truncated_completions": True, "entropy_coeff": 0.3,
        "top_entropy_quantile": 0.4,
    },
}  # fmt: skip
BY_SEQUENCE = [name for name in LOSS_TYPES if name not in ("reinforce", "vespo", "dppo")]
CLIPPED = ["grpo", "bnpo", "dapo", "dr_grpo", "gspo", "luspo"]
CASES = [
    *[{"loss_type": name, **option} for name in LOSS_TYPES for option in OPTIONS.values()],
    *[{"loss_type": name, "importance_sampling_level": "sequence"} for name in BY_SEQUENCE],
    *[{"loss_type": name, "importance_sampling_level": "sequence", **OPTIONS["all"]} for name in BY_SEQUENCE],
    *[{"loss_type": name, "delta": 1.35} for name in CLIPPED],
    {"loss_type": "sapo", "sapo_temperature_pos": 3.0, "sapo_temperature_neg": 5.0},
    {"loss_type": "vespo", "vespo_k_pos": 0.5, "vespo_lambda_pos": 1.0, "vespo_k_neg": 1.5},
    {"loss_type": "dppo", "clip_eps": 1e-4, "clip_eps_high": 2e-4, "clip_ratio_c": 1.2},
    {"loss_type": "dppo", "clip_eps": 1e-5, "divergence_type": "binary_kl"},
]
# Groups in a microbatch, and the most completions that are computed at once.
CUTS: list[tuple[int, int | None]] = [(1, None), (2, None), (9, 1), (9, 4), (2, 3)]


def four_groups(model: nn.Module) -> list[RolloutGroup]:
    """Four prompts, a group of equal rewards among them, with ratios on both sides of every bound."""
    groups = [
        group([1, 2, 3, 4], [rollout([5, 6, 7], 1.2), rollout([8], -0.7), rollout([9, 10], -0.5)]),
        group([11], [rollout([12, 13, 14, 15], 0.9), rollout([16, 17], -0.9), rollout([18], 0.0)]),
        group([20, 21], [rollout([22, 23], 0.0), rollout([24], 0.0), rollout([25, 26, 27], 0.0)]),
        group([5, 5, 6], [rollout([40, 41, 42, 43, 44], -1.1), rollout([45, 46], 0.6), rollout([47], 0.5)]),
    ]
    every = [(one, item) for one in groups for item in one.rollouts]
    for index, (one, item) in enumerate(every):
        logprobs = logprobs_of(logits_of(model, one.prompt_ids, item.token_ids, 0.8), item.token_ids)
        # by token the log ratio is +0.4, −0.1 or −0.35 in turn, and moved by the row's own −0.12 to 0.12
        shifts = [(0.4, -0.1, -0.35)[(index + t) % 3] + 0.12 * (index % 3 - 1) for t in range(len(logprobs))]
        item.logprobs = (logprobs - mx.array(shifts)).tolist()
        item.entropies = [((7 * index + 3 * t) % 11) / 4 for t in range(len(logprobs))]
        item.stop_reason = StopReason.LENGTH if index in (1, 3, 8) else StopReason.EOS
    return groups


def with_forced_tokens(groups: list[RolloutGroup]) -> list[RolloutGroup]:
    """The groups with tokens that an environment wrote: at the start, middle and end of rows."""
    for index, item in enumerate(item for one in groups for item in one.rollouts):
        count = len(item.token_ids)
        mask = [int((index + place) % 3 != 1) for place in range(count)] if count > 1 else [1]
        item.loss_mask = mask
        item.logprobs = [value * is_own for value, is_own in zip(item.logprobs, mask, strict=True)]
        item.entropies = [value * is_own for value, is_own in zip(item.entropies, mask, strict=True)]
    return groups


def microbatches(
    config: Config, groups: list[RolloutGroup], size: int, reference: Policy, budget: Budget | None = None
) -> list[Microbatch]:
    has_reference, kind = config.kl_coeff > 0, LOSS_TYPES[config.loss_type]
    batches = make_microbatches(
        groups, kind, config.max_new_tokens, size, has_reference, Counting.of(config), budget
    )
    for batch in batches if has_reference else []:
        batch.ref_logprobs = token_logprobs(reference.model, batch, config.temperature)
    return batches


def computed(
    config: Config, policy: Policy, reference: Policy, groups: list[RolloutGroup],
    size: int, rows: int | None, share_prefix: bool = True,
) -> tuple[Gradients, UpdateResult]:  # fmt: skip
    """The engine's gradient in microbatches of `size` groups, at most `rows` completions at once."""
    batches = microbatches(config, groups, size, reference)
    objective = Objective(config, ForwardPlan(share_prefix))
    return accumulate(policy.model, batches, objective, limit=RowLimit(rows))


def check_case(case: dict[str, Any], cuts: Sequence[tuple[int, int | None]]) -> None:
    config = Config(**{**BASE, **case})
    policy = nanochat_policy()
    reference = nearby_reference(policy)
    groups = four_groups(policy.model)
    loss, expected = nn.value_and_grad(policy.model, plain_loss)(
        policy.model, reference.model, groups, config.model_dump()
    )
    whole, result = computed(config, policy, reference, groups, 9, None)
    # cispo and reinforce add up terms of 9 to a loss of 0.06, rounded in another order
    assert result.loss == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)
    assert global_norm(expected) > 1e-3
    assert largest_difference(expected, whole) < 3e-6
    for size, rows in cuts:
        gradients, other = computed(config, policy, reference, groups, size, rows)
        assert largest_difference(whole, gradients) < 1e-6
        assert other.loss == pytest.approx(result.loss, rel=1e-5, abs=1e-5)
        assert (other.clip_ratio, other.clip_ratio_low, other.clip_ratio_high) == (
            result.clip_ratio, result.clip_ratio_low, result.clip_ratio_high,
        )  # fmt: skip
        assert other.kl == (None if result.kl is None else pytest.approx(result.kl, rel=1e-5))
