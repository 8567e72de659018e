"""An update: averages, KL and rates as configured, and the old logprobs of several updates per rollout."""

import dataclasses
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.engine.grpo.lr_schedule import learning_rate
from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.checkpoint import save_checkpoint
from grpo_cli.engine.run_dir.run_state import read_state, write_state
from grpo_cli.engine.train import train
from grpo_cli.engine.update.batch import Microbatch, TrainingSequence, pad
from grpo_cli.engine.update.forward import token_logprobs
from grpo_cli.engine.update.gradient import accumulate, global_norm
from grpo_cli.engine.update.objective import Objective, microbatch_loss
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.models.tree import flat
from tests.support.prepared_runs import distance, movement, prepared
from tests.support.random_models import group, rollout
from tests.support.small_runs import lines, small
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
    every = {"max_train_samples": 0}  # among fewer, the second generation has no group that teaches
    train(small(tmp_path, num_iterations=2, max_steps=4, clip_eps=1e-4, learning_rate=1e-3, **every))
    cut = [line["clip_ratio"] for line in lines(tmp_path / "run")]
    assert cut[0] == cut[2] == 0.0
    assert cut[1] > 0.1
    assert cut[3] > 0.01
    for line in lines(tmp_path / "run"):
        assert line["clip_ratio_low"] + line["clip_ratio_high"] == pytest.approx(line["clip_ratio"])


@pytest.mark.parametrize(
    ("loss_type", "weights"),
    [  # completions of 1 and 3 tokens
        ("dapo", [1 / 4, 1 / 4]),
        ("reinforce", [1 / 4, 1 / 4]),
        ("grpo", [1 / 2, 1 / 6]),
        ("gspo", [1 / 2, 1 / 6]),
        ("bnpo", [1 / 4, 1 / 4]),
        ("cispo", [1 / 4, 1 / 4]),
        ("dr_grpo", [1 / 80, 1 / 80]),  # 2 · max_new_tokens
    ],
)
def test_tokens_are_averaged_as_configured(run: Run, loss_type: str, weights: list[float]) -> None:
    config = run.config.model_copy(update={"loss_type": loss_type, "max_new_tokens": 40})
    groups = [group([1], [rollout([2], 1.0), rollout([2, 3, 4], -1.0)])]
    (batch,) = make_batches(dataclasses.replace(run, config=config), groups)
    assert batch.weights.squeeze(-1).tolist() == pytest.approx(weights)


def test_the_kl_term_pulls_as_hard_as_configured(tmp_path: Path) -> None:
    """Gradient = policy gradient + kl_coeff · gradient of the KL: its share doubles with kl_coeff."""
    moved = {}
    for kl_coeff in (0.0, 0.5, 1.0):
        run, batches = prepared(tmp_path, kl_coeff=kl_coeff)
        for batch in batches if kl_coeff else []:
            assert batch.ref_logprobs is not None
            batch.ref_logprobs = batch.ref_logprobs * 1.5
        moved[kl_coeff] = movement(run, batches)
    half, whole = [
        {name: moved[kl_coeff][name] - moved[0.0][name] for name in moved[0.0]} for kl_coeff in (0.5, 1.0)
    ]
    assert global_norm(half) > 1e-2 * global_norm(moved[0.0])
    assert distance(whole, half, scale=2.0) < 1e-3


@pytest.mark.parametrize("kind", ["full", "LoRA", "LoRA folder"])
def test_the_first_kl_is_zero_at_any_temperature(tmp_path: Path, kind: str) -> None:
    """Policy and reference are the same model, read at the same temperature."""
    changes: dict[str, Any] = {"LoRA": {"lora_rank": 2}}.get(kind, {})
    if kind == "LoRA folder":
        earlier, batches = prepared(tmp_path, lora_rank=2)
        update_policy(earlier, 1, batches)
        save_checkpoint(tmp_path / "adapters", earlier.snapshot())
        changes = {"model_name": str(tmp_path / "adapters")}
    settings = {"temperature": 0.7, "completion_prefix": "It is ", "optimizer": "adam"}
    run, batches = prepared(tmp_path, kl_coeff=0.1, **(settings | changes))
    assert update_policy(run, 1, batches)["kl"] == pytest.approx(0.0, abs=1e-6)
    assert update_policy(run, 2, batches)["kl"] > 1e-5  # the reference stays where the policy began


@pytest.mark.parametrize(
    ("shape", "expected"),
    [  # a peak of 0.08 after a warmup of 2 of 4 updates
        ("constant", [0.04, 0.08, 0.08, 0.08]),
        ("linear", [0.04, 0.08, 0.08, 0.04]),
        ("cosine", [0.04, 0.08, 0.08, 0.04]),
    ],
)
def test_the_optimizer_steps_at_the_rate_of_the_schedule(
    run: Run, shape: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(run.optimizer, "step", lambda _model, _gradients, _norm, rate: rates.append(rate))
    batch = pad([TrainingSequence([1, 2], rollout([3], 1.0), 1.0)])
    settings = {"learning_rate": 0.08, "warmup_ratio": 0.5, "max_steps": 4, "lr_scheduler_type": shape}
    one = dataclasses.replace(run, config=run.config.model_copy(update=settings))
    for step, rate in enumerate(expected, start=1):
        assert update_policy(one, step, [batch])["lr"] == pytest.approx(rate)
        assert rates[-1] == pytest.approx(rate)
        assert update_policy(one, step, [])["lr"] == rates[-1]
    thirds = dataclasses.replace(one, config=one.config.model_copy(update={"warmup_ratio": 0.25}))
    falls = {"constant": 1.0, "linear": 2 / 3, "cosine": 0.75}  # one third of the way down
    assert update_policy(thirds, 3, [])["lr"] == pytest.approx(0.08 * falls[shape])


def test_the_log_has_the_rate_of_the_schedule(tmp_path: Path) -> None:
    settings = {"max_steps": 3, "lr_scheduler_type": "linear", "warmup_ratio": 0.34, "learning_rate": 0.01}
    config = small(tmp_path, max_new_tokens=4, batch_size=1, num_generations=2, **settings)
    train(config)
    rates = [line["lr"] for line in lines(config.run_dir)]
    assert rates == pytest.approx([0.01, 0.01, 0.005])
    assert rates == [learning_rate(step, 3, 0.01, 0.34, "linear") for step in (1, 2, 3)]


def test_weights_move_by_the_scheduled_rate_times_the_gradient(tmp_path: Path) -> None:
    moved = []
    for step, rate in ((1, 0.05), (2, 0.1)):  # the first update of a warmup of two is at half the peak
        run, batches = prepared(tmp_path, warmup_ratio=0.5)
        gradients, _ = accumulate(run.policy.model, batches, Objective(run.config))
        moved.append(movement(run, batches, step))
        assert distance(moved[-1], flat(gradients), scale=-rate) < 1e-3
    assert distance(moved[1], moved[0], scale=2.0) < 1e-3
