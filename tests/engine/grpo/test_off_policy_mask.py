"""Off-policy sequence masking by hand, alone and in the loss."""

import math

import mlx.core as mx
import pytest

from grpo_cli.engine.grpo.off_policy_mask import is_kept
from grpo_cli.engine.update.batch import TrainingSequence, pad
from grpo_cli.engine.update.gradient import accumulate
from tests.support.gradients import largest_difference
from tests.support.random_models import nanochat_policy, rollout
from tests.support.steps import objective_of
from tests.support.update_groups import TEMPERATURE, sequence_logprobs

MASK = mx.array([[True, True, False], [True, True, True]])
SAMPLER = mx.array([[-1.0, -1.0, 50.0], [-1.0, -1.0, -1.0]])  # padding counts for nothing
LOGPROBS = mx.array([[-2.0, -1.5, 0.0], [-1.5, -1.0, -1.0]])  # means 0.75 and 1/6


@pytest.mark.parametrize(
    ("advantages", "threshold", "kept"),
    [
        ([-1.0, -1.0], 0.5, [False, True]),
        ([-1.0, -1.0], 0.75, [True, True]),  # the threshold itself is kept
        ([-1.0, -1.0], 0.1, [False, False]),
        ([1.0, 0.0], 0.1, [True, True]),
    ],
)
def test_negative_completions_beyond_the_threshold(
    advantages: list[float], threshold: float, kept: list[bool]
) -> None:
    found = is_kept(LOGPROBS, SAMPLER, mx.array(advantages)[:, None], MASK, threshold)
    assert found.squeeze(-1).tolist() == kept


@pytest.mark.parametrize("loss_type", ["dapo", "gspo", "gmpo", "vespo"])
def test_the_loss_without_a_dropped_completion(loss_type: str) -> None:
    """Of two rows with A < 0 the second moved by 0.9 nats a token: loss and gradient are the first's."""
    policy = nanochat_policy()
    sequences = []
    for tokens, shift in (([5, 6, 7], 0.1), ([8, 9], 0.9)):
        own: list[float] = sequence_logprobs(policy.model, [1, 2], tokens).tolist()  # type: ignore[assignment]
        one = rollout(tokens, -1.5, [x + shift for x in own])
        sequences.append(TrainingSequence([1, 2], one, 0.5))
    objective = objective_of(loss_type, TEMPERATURE, 0.2, 0.2, 0.0, off_policy_mask_threshold=0.5)
    gradients, result = accumulate(policy.model, [pad(sequences)], objective)
    expected, alone = accumulate(policy.model, [pad(sequences[:1])], objective)
    assert alone.grad_norm > 1e-3
    assert result.loss == pytest.approx(alone.loss, rel=1e-5)
    assert largest_difference(expected, gradients) < 1e-6
    assert (result.off_policy_masked, alone.off_policy_masked) == (pytest.approx(2 / 5), 0.0)


def test_a_quantized_sampler_counts_instead_of_the_old_policy() -> None:
    """π_old is π itself, the copy that sampled is 0.9 nats away: both kinds of drift are measured."""
    policy = nanochat_policy()
    own: list[float] = sequence_logprobs(policy.model, [1], [5, 6]).tolist()  # type: ignore[assignment]
    one = rollout([5, 6], -1.5, [x + 0.9 for x in own])
    batch = pad([TrainingSequence([1], one, 0.5)], recompute_old=True, has_other_sampler=True)
    losses = []
    for threshold in (0.0, 0.8, 1.0):  # 0: nothing is dropped
        objective = objective_of(
            "dapo", TEMPERATURE, 0.2, 0.2, 0.0,
            quantize_for_rollouts=True, off_policy_mask_threshold=threshold,
        )  # fmt: skip
        losses.append(accumulate(policy.model, [batch], objective)[1].loss)
    assert losses == pytest.approx([1.5 * math.exp(-0.9), 0.0, 1.5 * math.exp(-0.9)], rel=1e-4)


def test_kl_and_bonus_of_a_dropped_completion_stay() -> None:
    policy = nanochat_policy()
    own: list[float] = sequence_logprobs(policy.model, [1], [5, 6]).tolist()  # type: ignore[assignment]
    batch = pad([TrainingSequence([1], rollout([5, 6], -1.5, [x + 0.9 for x in own]), 0.5)])
    batch.ref_logprobs = mx.array([own]) - 0.3
    objective = objective_of("dapo", TEMPERATURE, 0.2, 0.2, 0.7, off_policy_mask_threshold=0.5)
    divergence = math.exp(-0.3) + 0.3 - 1
    assert accumulate(policy.model, [batch], objective)[1].loss == pytest.approx(0.7 * divergence, rel=1e-4)
