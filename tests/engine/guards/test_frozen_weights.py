"""Weights that do not move stop the run, with the reason; weights that need not move do not."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map

from grpo_cli.config.schema import Config
from grpo_cli.engine import setup
from grpo_cli.engine.collect_rollouts import set_advantages
from grpo_cli.engine.guards.frozen_weights import NOISE, WeightsMoved, moved, sample
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run import Run
from grpo_cli.engine.train import train
from grpo_cli.engine.update import gradient
from grpo_cli.engine.update.optimizer import Optimizer
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.errors import TrainingError
from grpo_cli.models.tree import flat
from tests.support.small_runs import SHORT, lines, small
from tests.support.steps import scored_groups

ONE: dict[str, Any] = {**SHORT, "max_steps": 1, "warmup_ratio": 0.0}
FLAT = "def flat(completions, **columns):\n    return [1.0] * len(completions)\n"


# --- by hand -------------------------------------------------------------------------------------------


def test_a_sample_is_evenly_spaced_and_a_copy() -> None:
    array = mx.arange(10_000, dtype=mx.float32).reshape(100, 100)
    found = sample({"a": array, "b": mx.array([3.0], dtype=mx.bfloat16)})
    assert found["a"].tolist() == [3.0 * place for place in range(3334)]  # every third: at most 4096
    assert (found["b"].dtype, found["b"].tolist()) == (mx.float32, [3.0])


def test_how_far_weights_moved() -> None:
    before = {"a": mx.array([3.0, 0.0]), "b": mx.array([4.0])}
    after = {"a": mx.array([3.0, 0.3]), "b": mx.array([4.4])}
    assert moved(before, after) == pytest.approx(0.5 / 5.0)
    assert moved(before, before) == 0.0
    assert moved({"b": mx.zeros(2)}, {"b": mx.array([0.0, 1e-9])}) == float("inf")  # an adapter's beginning
    assert moved({"b": mx.zeros(2)}, {"b": mx.zeros(2)}) == 0.0


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_the_noise_is_what_rounding_does(dtype: mx.Dtype) -> None:
    """Numbers of every size, rounded: their error relative to their norm is near the constant."""
    mx.random.seed(0)
    exact = mx.random.normal((100_000,))
    fine = exact.astype(mx.float32)
    if dtype == mx.float32:  # what is beyond float32: the sum with something below its rounding
        error = 2.0**-23 * 2.0 ** mx.floor(mx.log2(mx.abs(fine))) / 12**0.5
        ratio = (mx.linalg.norm(error) / mx.linalg.norm(fine)).item()
    else:
        ratio = (mx.linalg.norm(fine.astype(dtype).astype(mx.float32) - fine) / mx.linalg.norm(fine)).item()
    assert NOISE[dtype] / 2 < ratio < NOISE[dtype]


def proof(before: float, after: float, rate: float, grad_norm: float = 1.0, **changes: Any) -> bool:
    one = WeightsMoved(Config(**{"learning_rate": 1e-3, **changes}))
    one.begin({"w": mx.full((100,), before)})
    one.end({"w": mx.full((100,), after)}, grad_norm, rate)
    return one.is_given


def test_a_proof_by_hand() -> None:
    assert proof(1.0, 0.999, 1e-3)
    for rate in (0.0, 4e-4):  # a warmup's beginning: no proof, and no error
        assert not proof(1.0, 1.0, rate)
    with pytest.raises(TrainingError, match="the gradient of every weight is exactly 0"):
        proof(1.0, 0.9, 1e-3, grad_norm=0.0)
    with pytest.raises(TrainingError, match="the update does not reach the weights"):
        proof(1.0, 1.0, 1e-3)
    with pytest.raises(TrainingError, match=r"learning_rate = 1e-09 is lost in rounding"):
        proof(1.0, 1.0, 1e-9, learning_rate=1e-9)
    # SGD: 1e-3 · the clipped norm of 1e-4, on weights of norm 10: 1e-8, below 3e-8
    with pytest.raises(TrainingError, match=r"is lost in rounding.* is at most 1e-08"):
        proof(1.0, 1.0, 1e-3, optimizer="sgd", max_grad_norm=1e-4)


# --- what stops a run ------------------------------------------------------------------------------------


def stopped(config: Config) -> TrainingError:
    with pytest.raises(TrainingError) as error:
        train(config)
    assert error.value.hint
    return error.value


def patched_policy(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    real = setup.trainable_policy

    def policy(*arguments: Any) -> Any:
        made = real(*arguments)
        change(made.model)
        return made

    monkeypatch.setattr(setup, "trainable_policy", policy)


def test_a_frozen_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patched_policy(monkeypatch, lambda model: model.freeze())
    assert stopped(small(tmp_path, **ONE)).message == "Nothing is learned: no weight is trainable"


def test_a_gradient_that_is_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is trainable that the output does not depend on."""

    def only_an_idle_one(model: Any) -> None:
        model.freeze()
        model.idle = mx.ones(3)

    patched_policy(monkeypatch, only_an_idle_one)
    assert "gradient of every weight is exactly 0" in stopped(small(tmp_path, **ONE)).message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "learning_rate": 1e-12},
        {"optimizer": "lion", "learning_rate": 1e-12},
        {"optimizer": "sgd", "learning_rate": 1e-6, "max_grad_norm": 0.1},
    ],
    ids=str,
)
def test_a_rate_that_rounding_swallows(tmp_path: Path, changes: dict[str, Any], dtype: str) -> None:
    """In half precision it is the float32 copies that must move."""
    error = stopped(small(tmp_path, **{**ONE, **changes, "dtype": dtype}))
    assert "is lost in rounding" in error.message
    assert "rounding in float32" in error.message


def test_half_precision_without_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for the float32 copies: bfloat16 weights lose an update of 1e-5."""
    real_init, real_step = Optimizer.__init__, Optimizer.step

    def without_copies(self: Optimizer, *arguments: Any) -> None:
        real_init(self, *arguments)
        self.master = None

    def rounded(self: Optimizer, model: Any, *arguments: Any) -> None:
        real_step(self, model, *arguments)
        model.update(tree_map(lambda array: array.astype(mx.bfloat16), model.trainable_parameters()))

    monkeypatch.setattr(Optimizer, "__init__", without_copies)
    monkeypatch.setattr(Optimizer, "step", rounded)
    error = stopped(small(tmp_path, **{**ONE, "learning_rate": 1e-5, "dtype": "bfloat16"}))
    assert "learning_rate = 1e-05 is lost in rounding" in error.message
    assert "rounding in bfloat16 is 0.002" in error.message


def test_an_update_that_does_not_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Optimizer, "step", lambda *_arguments: None)
    assert "does not reach the weights" in stopped(small(tmp_path, **ONE)).message


# --- what does not ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_rank": 2},
        {"dtype": "bfloat16", "learning_rate": 1e-6},
        {"dtype": "float16", "learning_rate": 1e-6},
        {"optimizer": "lion", "learning_rate": 1e-6},
        {"learning_rate": 0.0},
        {"kl_coeff": 0.1},
        {"warmup_ratio": 1.0, "max_steps": 4},
    ],
    ids=str,
)
def test_a_sound_run_goes_on(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = small(tmp_path, **{**ONE, **changes})
    train(config)
    assert len(lines(config.run_dir)) == config.max_steps


def test_the_end_of_a_schedule_after_a_resume(tmp_path: Path) -> None:
    """The last rate of a cosine is next to nothing, and the weights need not move by it."""
    config = small(
        tmp_path, **{**ONE, "max_steps": 3, "save_steps": 1, "learning_rate": 2e-7, "optimizer": "lion"}
    )
    train(config)
    resume(config.run_dir / "checkpoint-2")
    assert len(lines(config.run_dir)) == 3


def test_a_warmup_that_begins_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "grpo_cli.engine.update_policy.learning_rate", lambda step, *_arguments: 1e-5 * (step > 1)
    )
    config = small(tmp_path, **{**ONE, "max_steps": 2, "learning_rate": 1e-5})
    train(config)
    assert [line["lr"] for line in lines(config.run_dir)] == [0.0, 1e-5]


def test_skipped_updates_prove_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, step = gradient.accumulate, 0

    def broken_once(*arguments: Any, **options: Any) -> Any:
        nonlocal step
        step += 1
        gradients, result = real(*arguments, **options)
        result.grad_norm = float("nan") if step == 1 else result.grad_norm
        return gradients, result

    monkeypatch.setattr("grpo_cli.engine.update_policy.accumulate", broken_once)
    config = small(tmp_path, **{**ONE, "max_steps": 2})
    train(config)
    assert ["skipped" in line for line in lines(config.run_dir)] == [True, False]


# --- a step that cannot teach ------------------------------------------------------------------------------


def state_of(run: Run) -> dict[str, list[Any]]:
    arrays = {**flat(run.policy.model.parameters()), **run.optimizer.arrays()}
    return {name: array.tolist() for name, array in arrays.items()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["adamw", "lion", "sgd"])
def test_a_step_without_an_informative_group_changes_nothing(
    tmp_path: Path, optimizer: str, weight_decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a real one, so that there are moments that momentum would go on by."""
    settings = {**SHORT, "optimizer": optimizer, "weight_decay": weight_decay, "learning_rate": 1e-2}
    run = setup.prepare(small(tmp_path, **settings))
    groups = scored_groups(run)
    update_policy(run, 1, make_batches(run, groups), is_on_policy=True)
    for one in groups:
        for item in one.rollouts:
            item.reward = 1.0
    set_advantages(groups, run.config)
    before = state_of(run)
    monkeypatch.setattr(
        "grpo_cli.engine.update_policy.accumulate", None
    )  # no forward and no backward is made
    line = update_policy(run, 2, make_batches(run, groups), is_on_policy=True)
    assert state_of(run) == before
    assert (line["loss"], line["grad_norm"], line["ratio_deviation"]) == (0.0, 0.0, None)
    assert "skipped" not in line


def test_a_run_of_equal_rewards_goes_through_and_learns_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FLAT)
    config = small(
        tmp_path, **{**ONE, "max_steps": 2, "reward_functions": [f"{tmp_path}/mine.py:flat"], "save_steps": 1}
    )
    train(config)
    first, last = (config.run_dir / name / "model.safetensors" for name in ("checkpoint-1", "final"))
    assert first.read_bytes() == last.read_bytes()
    log = lines(config.run_dir)
    assert [line["zero_std_fraction"] for line in log] == [1.0, 1.0]
    assert all(line["update_seconds"] < line["rollout_seconds"] / 20 for line in log)
    assert json.dumps(log[0])  # and every number of it is one
