"""Every loss type with every option: against a plain loop, and the same however the step is cut."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.gradient import accumulate, global_norm
from grpo_cli.models.load import Policy
from grpo_cli.types import StopReason
from tests.support.gradients import largest_difference
from tests.support.loss_cases import (
    BASE,
    CASES,
    CUTS,
    OPTIONS,
    check_case,
    computed,
    four_groups,
    microbatches,
)
from tests.support.plain_loss import logits_of, logprobs_of, plain_loss
from tests.support.random_models import group, llama_policy, nanochat_policy, rollout
from tests.support.steps import objective_of
from tests.support.update_groups import nearby_reference, step_groups

# Every loss type alone and with all options, and of the options between them every other one in turn.
TRIED = [
    place
    for place in range(len(CASES))
    if place >= len(LOSS_TYPES) * len(OPTIONS)
    or place % len(OPTIONS) in (0, len(OPTIONS) - 1)
    or (place // len(OPTIONS) + place % len(OPTIONS)) % 2
]


@pytest.mark.parametrize("place", TRIED, ids=lambda n: "-".join(map(str, CASES[n].values())))
def test_it_is_the_plain_loop_and_no_cut_changes_it(place: int) -> None:
    """One way to cut the step for each; `python -m tests.bench.algorithms` tries every case in every way."""
    check_case(CASES[place], CUTS[place % len(CUTS) :][:1])


@pytest.mark.parametrize("make_policy", [nanochat_policy, llama_policy])
@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
def test_it_is_the_plain_loop_for_each_kind_of_model_without_a_shared_prefix(
    make_policy: Callable[[], Policy], loss_type: str
) -> None:
    config = Config(**BASE, loss_type=loss_type, **OPTIONS["all"])  # type: ignore[arg-type]
    policy = make_policy()
    reference = nearby_reference(policy)
    groups = four_groups(policy.model)
    expected = nn.value_and_grad(policy.model, plain_loss)(
        policy.model, reference.model, groups, config.model_dump()
    )[1]
    for share_prefix in (True, False):
        gradients, _ = computed(config, policy, reference, groups, 2, 2, share_prefix)
        assert largest_difference(expected, gradients) < 1e-5


def test_bnpo_averages_over_the_configured_forward_whatever_fits_into_memory() -> None:
    """Forwards of 1 and 3 prompts are another loss; microbatches of 1 and 3 are not."""
    policy = nanochat_policy()
    groups = four_groups(policy.model)
    made = {
        (prompts, size): computed(
            Config(**{**BASE, "loss_type": "bnpo", "batch_size": prompts}), policy, policy, groups, size, None
        )[0]
        for prompts in (1, 3)
        for size in (1, 3)
    }
    for prompts in (1, 3):
        assert largest_difference(made[prompts, 1], made[prompts, 3]) < 1e-6
    assert largest_difference(made[1, 1], made[3, 1]) > 1e-2


def trained(**keys: Any) -> list[list[int]]:
    """The token ids of all completions that get a forward and backward."""
    policy = nanochat_policy()
    batches = microbatches(Config(**BASE, **keys), four_groups(policy.model), 9, policy)
    return [item.token_ids for batch in batches for item in batch.rollouts]


EQUAL = [[18], [22, 23], [24], [25, 26, 27]]  # advantage 0
TRUNCATED = [[8], [12, 13, 14, 15], [25, 26, 27]]


@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
def test_completions_whose_gradient_is_zero_cost_no_backward(loss_type: str) -> None:
    everything = trained(loss_type=loss_type, kl_coeff=0.1)
    assert len(everything) == 12
    assert trained(loss_type=loss_type, entropy_coeff=0.1) == everything
    without = [ids for ids in everything if ids not in EQUAL]
    assert trained(loss_type=loss_type) == without
    masked = {"loss_type": loss_type, "mask_truncated_completions": True}
    assert trained(**masked) == [ids for ids in without if ids not in TRUNCATED]
    assert trained(**masked, kl_coeff=0.1) == [ids for ids in everything if ids not in TRUNCATED]
    few = trained(loss_type=loss_type, top_entropy_quantile=0.1)
    assert few
    assert len(few) < len(without)


def test_clipped_tokens_are_told_apart_by_their_side() -> None:
    """Ratios e^0.4 twice with A > 0 and twice with A < 0; e^−0.4 once with A > 0, three times with A < 0."""
    policy = nanochat_policy()
    groups = [
        group([1, 2], [rollout([5, 6, 7], 1.0), rollout([8, 9, 10, 11, 12], -1.0), rollout([3, 4], 0.5)])
    ]
    shifts = [[0.4, 0.4, -0.4], [0.4, 0.4, -0.4, -0.4, -0.4], [0.0, 0.0]]
    for item, shift in zip(groups[0].rollouts, shifts, strict=True):
        logits = logits_of(policy.model, [1, 2], item.token_ids, 0.8)
        item.logprobs = (logprobs_of(logits, item.token_ids) - mx.array(shift)).tolist()
    config = Config(**BASE)
    _, result = computed(config, policy, policy, groups, 1, 1)
    assert result.clip_ratio_high == pytest.approx(2 / 10)
    assert result.clip_ratio_low == pytest.approx(3 / 10)
    assert result.clip_ratio == pytest.approx(5 / 10)
    # by sequence: (0.4 + 0.4 − 0.4) / 3 = 0.13, e^(0.8 − 1.2)/5 = 0.92: both within 0.8 to 1.3
    _, result = computed(Config(**BASE, loss_type="gspo"), policy, policy, groups, 1, 1)
    assert result.clip_ratio == 0.0
    narrow = Config(**{**BASE, "loss_type": "gspo", "clip_eps": 0.01, "clip_eps_high": 0.01})
    _, result = computed(narrow, policy, policy, groups, 1, 1)
    assert (result.clip_ratio_high, result.clip_ratio_low) == (pytest.approx(3 / 10), pytest.approx(5 / 10))


def test_where_no_completion_counts_the_gradient_is_zero() -> None:
    policy = nanochat_policy()
    groups = four_groups(policy.model)
    for item in [item for one in groups for item in one.rollouts]:
        item.stop_reason = StopReason.LENGTH
    for loss_type in LOSS_TYPES:
        config = Config(**BASE, loss_type=loss_type, mask_truncated_completions=True, kl_coeff=0.1)  # type: ignore[arg-type]
        gradients, result = computed(config, policy, policy, groups, 2, None)
        assert (result.loss, global_norm(gradients), result.kl) == (0.0, 0.0, 0.0)


def test_a_step_of_equal_rewards_has_a_gradient_of_exactly_zero() -> None:
    policy = nanochat_policy()
    groups = step_groups()[2:]
    batches = make_microbatches(groups, LOSS_TYPES["dapo"], 6, 4, has_reference=False)
    gradients, result = accumulate(policy.model, batches, objective_of("dapo", 1.0, 0.2, 0.2, 0.0))
    assert result.grad_norm == 0.0
    assert result.loss == 0.0
    assert all(mx.all(gradient == 0).item() for _, gradient in tree_flatten(gradients))
