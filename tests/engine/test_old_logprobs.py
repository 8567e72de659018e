"""Several updates on the same rollouts: the first ratio is exactly 1, later ones are to that policy."""

import dataclasses
from pathlib import Path

import mlx.core as mx
import pytest

from grpo_cli.engine.memory.out_of_memory import RowLimit
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.run_state import read_state, write_state
from grpo_cli.engine.train import train
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.forward import token_logprobs
from grpo_cli.engine.update.objective import Objective, microbatch_loss
from grpo_cli.engine.update_policy import make_batches, update_policy
from tests.engine.test_train import lines, small
from tests.engine.test_wiring import prepared
from tests.support.steps import scored_groups


def ratios(run: Run, batch: Microbatch) -> mx.array:
    """(B, S) π/π_old of the loss; 1 on padding."""
    logprobs = microbatch_loss(run.policy.model, batch, Objective(run.config))[1].logprobs
    old = logprobs if batch.old_is_current else batch.old_logprobs
    return mx.exp(mx.where(batch.loss_mask, logprobs - old, 0.0))


def test_the_first_updates_own_logprobs_become_the_old_ones(tmp_path: Path) -> None:
    run, batches = prepared(tmp_path, num_iterations=2)
    assert batches
    assert all(batch.old_is_current for batch in batches)
    before = [token_logprobs(run.policy.model, batch, run.config.temperature) for batch in batches]
    assert update_policy(run, 1, batches)["clip_ratio"] == 0.0
    for batch, logprobs in zip(batches, before, strict=True):
        assert not batch.old_is_current
        assert mx.array_equal(batch.old_logprobs, mx.where(batch.loss_mask, logprobs, 0.0))
        for item, row in zip(batch.rollouts, batch.old_logprobs.tolist(), strict=True):  # type: ignore[arg-type]
            assert item.old_logprobs == row[: len(item.token_ids)]  # type: ignore[index]
        assert mx.abs(ratios(run, batch) - 1.0).max().item() > 1e-4  # the policy has moved


def test_the_samplers_logprobs_play_no_part_then(tmp_path: Path) -> None:
    """Falsified, they change the loss of a single update, and nothing where there are several."""
    changes: dict[int, float] = {}
    for iterations in (1, 2):
        run, _ = prepared(tmp_path, num_iterations=iterations)
        groups = scored_groups(run)
        for item in [item for one in groups for item in one.rollouts]:
            item.advantage = 1.0
        grad_norms = []
        for shift in (0.0, 0.1):
            for item in [item for one in groups for item in one.rollouts]:
                item.logprobs = [value + shift for value in item.logprobs]
            copy, _ = prepared(tmp_path, num_iterations=iterations)
            grad_norms.append(update_policy(copy, 1, make_batches(copy, groups))["grad_norm"])
            for item in [item for one in groups for item in one.rollouts]:
                item.old_logprobs = []
        changes[iterations] = abs(grad_norms[1] / grad_norms[0] - 1)
    assert changes[1] > 0.01
    assert changes[2] == 0.0


def test_one_update_computes_nothing_twice_and_uses_the_samplers(tmp_path: Path) -> None:
    run, batches = prepared(tmp_path)
    assert not any(batch.old_is_current for batch in batches)
    update_policy(run, 1, batches)
    assert all(item.old_logprobs == [] for batch in batches for item in batch.rollouts)
    for batch in batches:
        for item, row in zip(batch.rollouts, batch.old_logprobs.tolist(), strict=True):  # type: ignore[arg-type]
            assert row[: len(item.logprobs)] == pytest.approx(item.logprobs)  # type: ignore[index]


@pytest.mark.parametrize("rows", [1, 3])
def test_they_are_whole_where_memory_was_short(tmp_path: Path, rows: int) -> None:
    whole, expected = prepared(tmp_path, num_iterations=2)
    first = update_policy(whole, 1, expected)
    run, batches = prepared(tmp_path, num_iterations=2)
    for batch in batches:
        batch.old_logprobs = batch.old_logprobs + 0.1  # the sampler's, which no part may use
    run.update_limit = RowLimit(rows)
    assert update_policy(run, 1, batches)["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-5)
    for batch, other in zip(batches, expected, strict=True):
        assert mx.allclose(batch.old_logprobs, other.old_logprobs, atol=1e-5)


def test_they_survive_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    run, _ = prepared(tmp_path, num_iterations=2)
    groups = scored_groups(run)
    for item in [item for one in groups for item in one.rollouts]:
        item.advantage = 1.0
    batches = make_batches(run, groups)
    assert batches
    update_policy(run, 1, batches)
    run.state.random_state = [1, 2]
    write_state(tmp_path, run.state, groups)
    again = make_batches(run, read_state(tmp_path)[1])
    assert len(again) == len(batches)
    for batch, other in zip(again, batches, strict=True):
        assert not batch.old_is_current
        assert mx.array_equal(batch.old_logprobs, other.old_logprobs)


def test_a_skipped_update_leaves_the_next_one_to_be_the_first(tmp_path: Path) -> None:
    run, batches = prepared(tmp_path, num_iterations=2)
    poisoned = [dataclasses.replace(batch, advantages=batch.advantages * float("nan")) for batch in batches]
    assert "skipped" in update_policy(run, 1, poisoned)
    assert all(batch.old_is_current for batch in poisoned)
    assert all(item.old_logprobs == [] for batch in batches for item in batch.rollouts)


def test_a_run_of_several_updates_clips_only_after_the_first(tmp_path: Path) -> None:
    train(small(tmp_path, num_iterations=2, max_steps=4, clip_eps=1e-4, learning_rate=1e-3))
    cut = [line["clip_ratio"] for line in lines(tmp_path / "run")]
    assert cut[0] == cut[2] == 0.0
    assert cut[1] > 0.1
    assert cut[3] > 0.01
    for line in lines(tmp_path / "run"):
        assert line["clip_ratio_low"] + line["clip_ratio_high"] == pytest.approx(line["clip_ratio"])
