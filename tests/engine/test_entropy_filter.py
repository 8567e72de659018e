"""The tokens with a policy loss, chosen by the current policy's entropies before each update."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from grpo_cli.engine.entropy_filter import choose_by_current_entropy
from grpo_cli.engine.run import Run
from grpo_cli.engine.setup import prepare
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.types import RolloutGroup
from tests.support.plain_loss import logits_of
from tests.support.small_runs import small
from tests.support.steps import scored_groups

CURRENT: dict[str, Any] = {
    "max_train_samples": 0,
    "top_entropy_quantile": 0.3, "top_entropy_policy": "current", "num_iterations": 2, "learning_rate": 1e-2,
    "warmup_ratio": 0.0,
}  # fmt: skip


def run_and_groups(folder: Path, **keys: Any) -> tuple[Run, list[RolloutGroup]]:
    """A run and a step's groups; the first one has equal rewards."""
    run = prepare(small(folder, **{**CURRENT, **keys}))
    groups = scored_groups(run)
    for place, one in enumerate(groups):
        for turn, item in enumerate(one.rollouts):
            item.advantage = 0.0 if place == 0 else 1.0 - 0.3 * turn
    return run, groups


def entropies_of(run: Run, groups: list[RolloutGroup]) -> dict[int, Any]:
    """Each token's entropy by a plain forward, less numpy's quantile of all trained ones; −∞ for others."""
    found = {}
    for one in groups:
        for item in one.rollouts:
            p = mx.softmax(logits_of(run.policy.model, one.prompt_ids, item.token_ids, 1.0), axis=-1)
            entropies = np.array(-(p * mx.log(p)).sum(axis=-1))
            found[id(item)] = np.where(item.loss_mask, entropies, -np.inf)
    every = np.concatenate(list(found.values()))
    threshold = np.quantile(every[np.isfinite(every)], 0.7)
    return {key: entropies - threshold for key, entropies in found.items()}


def fits(found: dict[int, list[bool]], above: dict[int, Any]) -> bool:
    """True if the chosen tokens are those above the threshold; one within rounding of it may be either."""
    assert found.keys() == above.keys()
    return all(
        is_chosen == (distance >= 0) or abs(distance) < 1e-5
        for key, mask in found.items()
        for is_chosen, distance in zip(mask, above[key], strict=True)
    )


def chosen(batches: list[Microbatch]) -> dict[int, list[bool]]:
    found = {}
    for batch in batches:
        assert batch.policy_mask is not None
        for item, mask in zip(batch.rollouts, batch.policy_mask.tolist(), strict=True):
            found[id(item)] = mask[: len(item.token_ids)]
            assert not any(mask[len(item.token_ids) :])
    return found


@pytest.mark.parametrize("budget", [0, 60])
def test_each_update_chooses_by_its_own_policy(tmp_path: Path, budget: int) -> None:
    run, groups = run_and_groups(tmp_path, microbatch_tokens=budget)
    batches = make_batches(run, groups)
    before = chosen(batches)
    assert fits(before, entropies_of(run, groups))  # the sampler's own, and equal groups are in
    update_policy(run, 1, batches, is_on_policy=True)
    assert chosen(batches) == before
    now = entropies_of(run, groups)
    assert not fits(before, now)
    update_policy(run, 2, batches)
    after = chosen(batches)
    assert fits(after, now)
    assert sum(map(sum, after.values())) == pytest.approx(0.3 * sum(map(len, after.values())), abs=1)
    run.close()


def test_by_default_the_same_tokens_are_chosen_throughout(tmp_path: Path) -> None:
    run, groups = run_and_groups(tmp_path, top_entropy_policy="rollout")
    batches = make_batches(run, groups)
    before = chosen(batches)
    for step in (1, 2):
        update_policy(run, step, batches, is_on_policy=step == 1)
    assert chosen(batches) == before
    run.close()


def test_a_quantized_copys_entropies_are_not_the_policys(tmp_path: Path) -> None:
    run, groups = run_and_groups(tmp_path, quantize_for_rollouts=True, bits=3, group_size=32)
    batches = make_batches(run, groups)
    wanted = entropies_of(run, groups)
    assert not fits(chosen(batches), wanted)
    update_policy(run, 1, batches, is_on_policy=True)
    assert fits(chosen(batches), wanted)
    run.close()


def test_environments_tokens_are_neither_chosen_nor_counted(tmp_path: Path) -> None:
    run, groups = run_and_groups(tmp_path)
    for one in groups:
        for item in one.rollouts:
            item.loss_mask = [turn % 2 for turn in range(len(item.token_ids))]
    batches = make_batches(run, groups)
    choose_by_current_entropy(run, batches)
    kept = [[item for item in one.rollouts if any(item.loss_mask)] for one in groups]
    wanted = [replace(one, rollouts=items) for one, items in zip(groups, kept, strict=True)]
    assert fits(chosen(batches), entropies_of(run, wanted))
    run.close()


def test_a_step_of_equal_rewards_makes_no_update(tmp_path: Path) -> None:
    run, groups = run_and_groups(tmp_path)
    for item in (item for one in groups for item in one.rollouts):
        item.advantage = 0.0
    assert make_batches(run, groups) == []
    run.close()
