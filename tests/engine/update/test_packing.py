"""Microbatches under a budget of tokens: what is in them, by hand, and that they change no gradient."""

import math
import random
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine import setup
from grpo_cli.engine.resume import resume
from grpo_cli.engine.train import train
from grpo_cli.engine.update.batch import (
    Counting,
    Microbatch,
    TrainingSequence,
    distinct_prompts,
    make_microbatches,
)
from grpo_cli.engine.update.forward import ForwardPlan, token_logprobs
from grpo_cli.engine.update.gradient import Gradients, UpdateResult, accumulate, global_norm
from grpo_cli.engine.update.objective import Objective
from grpo_cli.engine.update.packing import Budget, cut, pack
from grpo_cli.engine.update_policy import make_batches
from grpo_cli.models.load import Policy
from tests.support.gradients import largest_difference
from tests.support.interruptions import interrupt_after
from tests.support.loss_cases import BASE, KL, OPTIONS, four_groups
from tests.support.plain_loss import plain_loss
from tests.support.random_models import nanochat_policy, rollout
from tests.support.small_runs import SHORT, log_without_times, small, weights
from tests.support.steps import scored_groups
from tests.support.update_groups import nearby_reference


def rows(prompt: int, lengths: list[int], name: int = 1) -> list[TrainingSequence]:
    """Rows of one prompt of so many tokens; `name` tells prompts apart."""
    return [TrainingSequence([name] * prompt, rollout([1] * length), 1.0) for length in lengths]


def lengths(parts: list[list[TrainingSequence]]) -> list[list[int]]:
    return [[row.length for row in part] for part in parts]


# --- what is computed at once ---------------------------------------------------------------------


def test_tokens_by_hand() -> None:
    both = [*rows(5, [3, 7]), *rows(9, [2], name=2)]
    assert Budget(99).cost(both) == 2 * 8 + 3 * 7  # prompts of 8 tokens, the shorter one padded
    assert Budget(99, share_prefix=False).cost(both) == 3 * (8 + 7)
    assert Budget(99).cost(rows(1, [4])) == 4  # the prompt's one token is the completion's first input


def test_one_long_row_is_computed_by_itself() -> None:
    """The module's example: 4115 tokens as 774; a shorter long row would not be worth it."""
    skewed = rows(20, [32] * 7 + [256] + [32] * 8)
    parts = pack([skewed], Budget(8192))
    assert lengths(parts) == [[32] * 15, [256]]
    assert Budget(8192).cost(skewed) == 4115
    assert sum(map(Budget(8192).cost, parts)) == 774
    # 16 · 90 + 19 = 1459 against 499 + 109 + 1024
    assert lengths(pack([rows(20, [32] * 15 + [90])], Budget(8192))) == [[32] * 15 + [90]]


def test_a_group_that_does_not_fit_is_cut_and_small_ones_are_joined() -> None:
    budget = Budget(40)
    assert lengths(pack([rows(5, [8] * 8)], budget)) == [[8] * 4] * 2  # 4 + 32 tokens
    three = [rows(3, [4, 4], name=name) for name in (1, 2, 3)]
    parts = pack(three, budget)  # 2 + 8 each: all three are 30
    assert lengths(parts) == [[4] * 6]
    assert lengths(pack(three, Budget(20))) == [[4] * 4, [4] * 2]
    assert [row.prompt_ids[0] for row in pack(three, Budget(20))[0]] == [1, 1, 2, 2]


def test_a_row_longer_than_the_budget_is_a_microbatch() -> None:
    assert lengths(pack([rows(5, [50, 3]), [], rows(5, [60], name=2)], Budget(20))) == [[3], [50], [60]]


def cheapest_of_all(group: list[TrainingSequence], budget: Budget) -> int:
    """The least Σ (tokens + price) of every way to cut the rows by length."""
    ordered = sorted(group, key=lambda row: row.length)
    found = []
    for count in range(len(ordered)):
        for inner in combinations(range(1, len(ordered)), count):
            edges = [0, *inner, len(ordered)]
            parts = [ordered[a:b] for a, b in pairwise(edges)]
            if all(len(part) == 1 or budget.cost(part) <= budget.tokens for part in parts):
                found.append(sum(budget.cost(part) + budget.price for part in parts))
    return min(found)


@pytest.mark.parametrize("seed", range(20))
def test_no_cut_of_a_group_is_cheaper(seed: int) -> None:
    """Against every one of the 2⁷ ways."""
    dice = random.Random(seed)
    group = rows(dice.randint(1, 20), [dice.randint(1, 30) for _ in range(8)])
    budget = Budget(dice.choice([20, 60, 200, 1000]), dice.random() < 0.5)
    parts = cut(group, budget)
    assert sorted(map(id, chain(*parts))) == sorted(map(id, group))
    assert sum(budget.cost(part) + budget.price for part in parts) == cheapest_of_all(group, budget)


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_in_one_microbatch_within_the_budget(seed: int) -> None:
    dice = random.Random(seed)
    groups = [
        rows(dice.randint(1, 9), [dice.randint(1, 25) for _ in range(dice.randint(0, 5))], name)
        for name in range(6)
    ]
    budget = Budget(dice.choice([15, 50, 120]), dice.random() < 0.5)
    parts = pack(groups, budget)
    assert sorted(id(row) for part in parts for row in part) == sorted(map(id, chain(*groups)))
    assert all(len(part) == 1 or budget.cost(part) <= budget.tokens for part in parts)


# --- and the gradient -----------------------------------------------------------------------------

BUDGETS = [(1, True), (9, True), (14, False), (22, True), (40, False), (1000, True)]


def packed(config: Config, policy: Policy, reference: Policy, budget: Budget | None) -> list[Microbatch]:
    """The microbatches of a step of four groups, with the reference's logprobs where there is one."""
    groups, has_reference = four_groups(policy.model), config.kl_coeff > 0
    loss_type, counting = LOSS_TYPES[config.loss_type], Counting.of(config)
    made = make_microbatches(groups, loss_type, config.max_new_tokens, 9, has_reference, counting, budget)
    for batch in made if has_reference else []:
        batch.ref_logprobs = token_logprobs(reference.model, batch, config.temperature)
    return made


def computed(
    config: Config, policy: Policy, reference: Policy, budget: Budget | None
) -> tuple[Gradients, UpdateResult, int]:
    batches = packed(config, policy, reference, budget)
    objective = Objective(config, ForwardPlan(budget is None or budget.share_prefix))
    return *accumulate(policy.model, batches, objective), len(batches)


@pytest.mark.parametrize("loss_type", list(LOSS_TYPES))
@pytest.mark.parametrize("option", ["alone", "all"])
def test_no_budget_changes_the_gradient(loss_type: str, option: str) -> None:
    config = Config(**BASE, loss_type=loss_type, **OPTIONS[option])  # type: ignore[arg-type]
    policy = nanochat_policy()
    reference = nearby_reference(policy)
    loss, expected = nn.value_and_grad(policy.model, plain_loss)(
        policy.model, reference.model, four_groups(policy.model), config.model_dump()
    )
    whole, result, _ = computed(config, policy, reference, None)
    assert global_norm(expected) > 1e-3
    counts = set()
    for tokens, share_prefix in BUDGETS:
        gradients, other, count = computed(config, policy, reference, Budget(tokens, share_prefix))
        counts.add(count)
        assert largest_difference(whole, gradients) < 1e-6
        assert largest_difference(expected, gradients) < 3e-6
        assert other.loss == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)
        assert (other.clip_ratio, other.clip_ratio_low, other.clip_ratio_high) == (
            result.clip_ratio, result.clip_ratio_low, result.clip_ratio_high,
        )  # fmt: skip
        assert other.kl == (None if result.kl is None else pytest.approx(result.kl, rel=1e-5))
    assert len(counts) > 2


def test_several_updates_learn_from_the_first_ones_logprobs_whatever_the_budget() -> None:
    """The second update's ratios are to what `remember` kept, row by row."""
    config = Config(**{**BASE, **KL}, num_iterations=2)
    norms, losses = [], []
    for budget in (None, Budget(9), Budget(22)):
        policy = nanochat_policy()
        batches = packed(config, policy, nearby_reference(policy), budget)
        assert all(batch.old_is_current for batch in batches)
        _, result = accumulate(policy.model, batches, Objective(config))
        assert result.clip_ratio == 0.0
        for batch, logprobs in zip(batches, result.logprobs, strict=True):
            batch.remember(logprobs)
        head = policy.model.lm_head
        head.weight = head.weight * 1.1
        gradients, second = accumulate(policy.model, batches, Objective(config))
        assert second.clip_ratio > 0.1
        norms.append(global_norm(gradients))
        losses.append(second.loss)
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_the_rows_are_padded_to_the_longest_of_their_own() -> None:
    policy = nanochat_policy()
    batches = packed(Config(**BASE, **KL), policy, policy, Budget(9))
    widths = [[len(item.token_ids) for item in batch.rollouts] for batch in batches]
    assert [batch.targets.shape[1] for batch in batches] == [max(width) for width in widths]
    assert sum(batch.token_count for batch in batches) == 27
    assert sum(math.prod(batch.targets.shape) for batch in batches) < 12 * 5


# --- in a run -------------------------------------------------------------------------------------


def numbers(folder: Path) -> list[dict[str, Any]]:
    keys = ("step", "loss", "grad_norm", "kl", "reward_mean")
    return [{key: line[key] for key in keys} for line in log_without_times(folder)]


def test_a_run_learns_the_same_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = {**SHORT, "kl_coeff": 0.05, "num_iterations": 2, "max_steps": 3, "batch_size": 2}
    plain = small(tmp_path, run_name="plain", **settings)
    tight = small(tmp_path, run_name="tight", microbatch_tokens=100, **settings)
    broken = small(tmp_path, run_name="broken", microbatch_tokens=100, **settings)
    train(plain)
    train(tight)
    for a, b in zip(numbers(plain.run_dir), numbers(tight.run_dir), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
    with pytest.raises(KeyboardInterrupt):
        train(broken, interrupt_after(1))
    resume(broken.run_dir)
    assert weights(broken.run_dir) == weights(tight.run_dir)
    assert weights(plain.run_dir) != weights(tight.run_dir)  # the key was at work: sums in another order


def test_a_budget_without_a_shared_prefix_knows_it(tmp_path: Path) -> None:
    """Each row reads its prompt itself there, which counts."""
    made = {}
    for shared in (False, True):
        run = setup.prepare(small(tmp_path, microbatch_tokens=120, batch_size=1, kl_coeff=0.1))
        run.forward_plan = ForwardPlan(shared)
        mx.random.seed(0)
        made[shared] = make_batches(run, scored_groups(run))
        for batch in made[shared]:
            part = [
                TrainingSequence(batch.prompts[row], item, 1.0)
                for row, item in zip(batch.rows, batch.rollouts, strict=True)
            ]
            assert len(part) == 1 or Budget(120, shared).cost(part) <= 120
    assert len(made[False]) > len(made[True])


def test_sequences_of_one_prompt_share_its_place() -> None:
    sequences = [*rows(2, [1, 1], name=7), *rows(3, [1], name=5), *rows(2, [4], name=7)]
    assert distinct_prompts(sequences) == ([[7, 7], [5, 5, 5]], [0, 0, 1, 0])
