"""Tokens that an environment wrote are read by the model and learnt from by nobody."""

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine.grpo.averaging import AVERAGES
from grpo_cli.engine.grpo.overlong import punish_overlong
from grpo_cli.engine.guards.logprob_mismatch import measure
from grpo_cli.engine.metrics import rollout_metrics
from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.rollout.buffer import DrawnGroups
from grpo_cli.engine.run_dir.run_state import ROLLOUTS_FILE, RunState, read_state, write_state
from grpo_cli.engine.update.batch import Counting, can_teach, make_microbatches
from grpo_cli.engine.update.compiled_loss import CompiledLoss
from grpo_cli.engine.update.forward import ForwardPlan, token_logprobs
from grpo_cli.engine.update.gradient import accumulate, global_norm
from grpo_cli.engine.update.objective import Objective
from grpo_cli.engine.update.packing import Budget
from grpo_cli.engine.update.shape_buckets import Most
from grpo_cli.errors import CheckpointError
from grpo_cli.models.tree import flat
from grpo_cli.types import Rollout, RolloutGroup
from tests.support.gradients import largest_difference
from tests.support.loss_cases import BASE, OPTIONS, four_groups, microbatches, with_forced_tokens
from tests.support.plain_loss import plain_loss
from tests.support.random_models import group, nanochat_policy, rollout
from tests.support.steps import objective_of
from tests.support.update_groups import TEMPERATURE, nearby_reference, sequence_logprobs

FORCED = -200.0  # the logprob of a token that nobody sampled: any number, for none is looked at


def masked(token_ids: list[int], mask: list[int], advantage: float) -> Rollout:
    """A rollout some of whose tokens are an environment's."""
    made = rollout(token_ids, advantage)
    made.loss_mask = mask
    made.logprobs = [-1.0 if trained else FORCED for trained in mask]
    made.entropies = [0.5 * place if trained else 100.0 for place, trained in enumerate(mask, start=1)]
    return made


def groups() -> list[RolloutGroup]:
    return [
        group([1, 2, 3], [masked([5, 6, 7, 8], [1, 0, 0, 1], 1.5), masked([9, 10], [1, 1], -1.5)]),
        group([11], [masked([12, 13, 14], [0, 1, 0], 0.5), masked([15], [1], -0.5)]),
    ]


@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
@pytest.mark.parametrize("size", [1, 2])
def test_the_gradient_is_that_of_a_plain_loss_over_the_trained_tokens(loss_type: str, size: int) -> None:
    """On policy: the gradient of −Σ w · A · ratio, w by how the loss averages the trained tokens alone."""
    policy, made = nanochat_policy(), groups()
    for one in made:
        for item in one.rollouts:
            logprobs = sequence_logprobs(policy.model, one.prompt_ids, item.token_ids)
            item.logprobs = [
                value if trained else FORCED
                for value, trained in zip(logprobs.tolist(), item.loss_mask, strict=True)
            ]
    lengths = [[item.length for item in one.rollouts] for one in made]
    assert lengths == [[2, 2], [1, 1]]
    weights = iter(AVERAGES[LOSS_TYPES[loss_type].averaging](lengths, 6))

    def plain(parameters: object) -> mx.array:
        policy.model.update(parameters)
        loss = mx.array(0.0)
        every = [(one, item) for one in made for item in one.rollouts]
        for (one, item), weight in zip(every, fixed, strict=True):
            logprobs = sequence_logprobs(policy.model, one.prompt_ids, item.token_ids)
            mask = mx.array(item.loss_mask)
            log_ratio = mask * (logprobs - mx.stop_gradient(logprobs))
            if LOSS_TYPES[loss_type].by_sequence:
                log_ratio = log_ratio.sum() / mask.sum() * mask
            own = logprobs if loss_type in ("reinforce", "cispo", "vespo", "dppo") else mx.exp(log_ratio)
            loss = loss - weight * item.advantage * (mask * own).sum()
        return loss

    fixed = list(weights)
    expected = mx.grad(plain)(policy.model.trainable_parameters())
    counting = Counting(prompts_per_forward=1)
    batches = make_microbatches(made, LOSS_TYPES[loss_type], 6, size, has_reference=False, counting=counting)
    assert sum(batch.token_count for batch in batches) == 6
    gradients, result = accumulate(policy.model, batches, objective_of(loss_type, TEMPERATURE, 0.2, 0.2, 0.0))
    assert result.grad_norm > 1e-3
    assert largest_difference(expected, gradients) < 1e-5


def never(notice: Any) -> None:
    raise AssertionError(notice.text)


@pytest.mark.parametrize("option", ["alone", "all"])
@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
def test_every_path_gives_the_gradient_of_a_plain_loop(loss_type: str, option: str) -> None:
    """Ratios on both sides of every bound; the prompt shared or not, compiled, packed, cut into rows."""
    config = Config(**BASE, loss_type=loss_type, **OPTIONS[option])  # type: ignore[arg-type]
    policy = nanochat_policy()
    reference = nearby_reference(policy)
    made = with_forced_tokens(four_groups(policy.model))
    _, expected = nn.value_and_grad(policy.model, plain_loss)(
        policy.model, reference.model, made, config.model_dump()
    )
    norm = global_norm(expected)
    assert norm > 1e-3
    for share in (True, False):
        objective = Objective(config, ForwardPlan(share))
        for budget in (None, Budget(16, share)):
            batches = microbatches(config, made, 2, reference, budget)
            compiled = CompiledLoss(policy.model, Most(completion=8, prompt=4, rows=16), never)
            for way in ({}, {"compiled": compiled}, {"limit": RowLimit(2)}):
                gradients, _ = accumulate(policy.model, batches, objective, **way)  # type: ignore[arg-type]
                assert largest_difference(expected, gradients) < 1e-5


def test_a_forced_token_is_read() -> None:
    """The next token's logprob depends on it: it is left out of the loss, not out of the row."""
    policy = nanochat_policy()
    one = group([1, 2], [masked([5, 6, 7], [1, 0, 1], 1.0)])
    other = group([1, 2], [masked([5, 200, 7], [1, 0, 1], 1.0)])
    (a,), (b,) = (make_microbatches([g], LOSS_TYPES["dapo"], 6, 1, has_reference=False) for g in (one, other))
    first, second = (token_logprobs(policy.model, batch, 1.0).tolist()[0] for batch in (a, b))
    assert first[0] == second[0]
    assert abs(first[2] - second[2]) > 1e-3


def test_kl_and_entropy_leave_it_out() -> None:
    """A reference and entropies that differ at forced tokens only change nothing."""
    policy = nanochat_policy()
    losses = []
    for shift in (0.0, 3.0):
        (batch,) = make_microbatches(groups(), LOSS_TYPES["dapo"], 6, 2, has_reference=True)
        reference = token_logprobs(policy.model, batch, TEMPERATURE)
        batch.ref_logprobs = reference - 0.1 + mx.where(batch.loss_mask, 0.0, shift)
        batch.old_logprobs = mx.where(batch.loss_mask, reference, FORCED)
        objective = objective_of("dapo", TEMPERATURE, 0.2, 0.2, 0.5, entropy_coeff=0.3)
        gradients, result = accumulate(policy.model, [batch], objective)
        losses.append((result.loss, result.kl, flat(gradients)["lm_head.weight"].square().sum().item()))
    assert losses[0] == losses[1]
    assert losses[0][1] == pytest.approx(math.exp(-0.1) + 0.1 - 1.0, rel=1e-4)  # k3, the same at each token


def test_the_entropy_filter_knows_trained_tokens_only() -> None:
    counting = Counting(top_entropy_quantile=0.5)
    made = groups()
    trained = sorted(value for one in made for item in one.rollouts for value in item.trained(item.entropies))
    assert trained == [0.5, 0.5, 0.5, 1.0, 1.0, 2.0]
    assert counting.entropy_threshold(made) == pytest.approx(0.75)
    batches = make_microbatches(made, LOSS_TYPES["dapo"], 6, 2, has_reference=True, counting=counting)
    assert batches[0].policy_mask.tolist()[0] == [False, False, False, True]  # not the forced ones of 100


def test_lengths_guard_and_metrics_count_what_the_policy_wrote() -> None:
    made = groups()
    (batch,) = make_microbatches(made, LOSS_TYPES["dapo"], 6, 2, has_reference=False)
    sampled = mx.where(batch.loss_mask, -1.0, 50.0)
    deviation = measure([batch], [sampled])
    assert deviation is not None
    assert (deviation.tokens, deviation.mean, deviation.most) == (6, 0.0, 0.0)
    for item in (item for one in made for item in one.rollouts):
        item.reward, item.rewards = 1.0, {"r": 1.0}
    numbers = rollout_metrics(made)
    assert numbers["completion_length_mean"] == 1.5
    assert numbers["entropy"] == pytest.approx((0.5 * 3 + 1.0 * 2 + 2.0) / 6)
    drawn = DrawnGroups(wanted=2, position=0)
    drawn.take(made, 1.0)
    assert drawn.tokens == 6
    punish_overlong(made, 4, 4)
    assert made[0].rollouts[0].rewards["soft_overlong"] == -0.5  # 2 of 4 tokens, not 4


def test_a_completion_without_a_trained_token_teaches_nothing() -> None:
    one = [group([1], [masked([2, 3], [0, 0], 1.0), masked([4, 5], [0, 0], -1.0)])]
    assert not can_teach(one, Config())
    assert make_microbatches(one, LOSS_TYPES["grpo"], 6, 1, has_reference=True) == []


def test_a_checkpoint_keeps_it_and_an_older_one_has_none(tmp_path: Path) -> None:
    write_state(tmp_path, RunState(random_state=[1, 2]), groups())
    _, read = read_state(tmp_path)
    assert [item.loss_mask for one in read for item in one.rollouts] == [[1, 0, 0, 1], [1, 1], [0, 1, 0], [1]]
    path = tmp_path / ROLLOUTS_FILE
    saved = json.loads(path.read_text())
    for item in (item for one in saved for item in one["rollouts"]):
        del item["loss_mask"]
    path.write_text(json.dumps(saved))
    _, older = read_state(tmp_path)
    assert [item.loss_mask for one in older for item in one.rollouts] == [[1] * 4, [1] * 2, [1] * 3, [1]]
    for wrong in ([1], [1, 0, 0, 2]):
        saved[0]["rollouts"][0]["loss_mask"] = wrong
        path.write_text(json.dumps(saved))
        with pytest.raises(CheckpointError, match=r"rollouts\.json holds a"):
            read_state(tmp_path)
