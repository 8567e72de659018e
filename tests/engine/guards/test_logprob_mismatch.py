"""Sampler and loss are compared: what is right passes in every precision, what is wrong stops the run."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import setup
from grpo_cli.engine.dry_run import dry_run
from grpo_cli.engine.guards.logprob_mismatch import Deviation, check, measure, tolerance
from grpo_cli.engine.resume import resume
from grpo_cli.engine.rollout.prompt_cache import read_prompts
from grpo_cli.engine.train import train
from grpo_cli.engine.update import gradient
from grpo_cli.engine.update.batch import TrainingSequence, pad
from grpo_cli.engine.update.forward import ForwardPlan
from grpo_cli.engine.update.objective import Objective
from grpo_cli.errors import ModelError, TrainingError
from grpo_cli.models.batch_plan import BatchPlan
from tests.support.random_models import ByteTokenizer, rollout
from tests.support.small_runs import SHORT, lines, small

F32 = [mx.zeros(1)]
TWELVE = {**SHORT, "max_steps": 1, "temperature": 2.0}


def test_the_deviation_by_hand() -> None:
    """Three tokens and one; padding and what stands there count for nothing."""
    first = pad([TrainingSequence([1], rollout([65, 66, 67], 1.0, [-1.0, -2.0, -3.0]), 1.0)])
    second = pad([
        TrainingSequence([1], rollout([68], 1.0, [-0.5]), 1.0),
        TrainingSequence([2], rollout([69, 70], 1.0, [-1.5, -2.5]), 1.0),
    ])  # fmt: skip
    trained = [mx.array([[-1.0, -2.25, -3.0]]), mx.array([[-0.5, 99.0], [-1.5, -2.0]])]
    found = measure([first, second], trained)
    assert found == Deviation(
        mean=0.75 / 6, most=0.5, tokens=6, place=1, token_id=70, sampled=-2.5, trained=-2.0, batch=1, row=1
    )
    assert measure([], []) is None


def test_what_precision_allows() -> None:
    assert tolerance(F32, 1.0, exact_float32=True).most == 1e-3
    assert tolerance(F32, 0.5, exact_float32=True).most == 2e-3
    assert tolerance(F32, 2.0, exact_float32=True).most == 1e-3
    assert tolerance(F32, 1.0, exact_float32=False).mean == 8 / 1024  # ten bits, as float16 has them
    half = tolerance([mx.zeros(1), mx.zeros(1, dtype=mx.bfloat16)], 1.0, exact_float32=True)
    assert (half.mean, half.most, half.precision) == (8 / 128, 1.0, "bfloat16")
    assert tolerance([mx.zeros(1, dtype=mx.float16)], 0.8, True).mean == 8 / 1024 / 0.8


@pytest.mark.parametrize(("mean", "most"), [(2e-3, 2e-3), (1e-6, 2e-3)])
def test_the_error_says_how_much_and_where(mean: float, most: float) -> None:
    found = Deviation(mean=mean, most=most, tokens=40, place=3, token_id=65, sampled=-1.25, trained=-1.5)
    with pytest.raises(TrainingError) as error:
        check(found, tolerance(F32, 1.0, True), ByteTokenizer(), lambda: "sampling is off")  # type: ignore[arg-type]
    assert error.value.message.endswith("; sampling is off")
    assert error.value.message.startswith("The sampler and the loss disagree: over 40 tokens")
    assert "at token 4 of a completion, 'A' (65): -1.2500 when it was sampled, -1.5000" in error.value.message
    right = Deviation(mean=9e-4, most=9e-4, tokens=40, place=3, token_id=65, sampled=-1.25, trained=-1.5)
    check(right, tolerance(F32, 1.0, True), ByteTokenizer(), lambda: pytest.fail())  # type: ignore[arg-type]


# --- in a run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("changes", [{}, {"temperature": 4.0}, {"num_iterations": 2}, {"lora_rank": 2},
                                     {"top_p": 0.9}], ids=str)  # fmt: skip
def test_what_is_right_passes(dtype: str, changes: dict[str, Any], tmp_path: Path) -> None:
    config = small(tmp_path, **{**TWELVE, **changes, "dtype": dtype})
    train(config)
    (line,) = lines(config.run_dir)
    assert 0.0 <= line["ratio_deviation"] < (1e-4 if dtype == "float32" else 0.03)


def stopped(config: Any) -> TrainingError:
    with pytest.raises(TrainingError, match=r"^The sampler and the loss disagree") as error:
        train(config)
    assert not config.run_dir.exists()  # no update was made
    return error.value


def too_warm(config: Config, plan: ForwardPlan) -> Objective:
    """An objective whose logits are divided by another temperature than the sampler's."""
    return Objective(config.model_copy(update={"temperature": 1.8}), plan)


def test_a_wrong_temperature_in_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_cli.engine.run.Objective", too_warm)
    assert "the update is off" in stopped(small(tmp_path, **TWELVE)).message
    with pytest.raises(TrainingError, match=r"^The sampler and the loss disagree"):
        dry_run(small(tmp_path, run_name="dry", **TWELVE))


def test_a_corrupted_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler's cache forgets what the first layer read of the prompt."""

    def forgetful(*arguments: Any, **options: Any) -> list[Any]:
        cache = read_prompts(*arguments, **options)
        cache[0].values = mx.zeros_like(cache[0].values)
        return cache

    monkeypatch.setattr("grpo_cli.engine.rollout.continuous_batch.read_prompts", forgetful)
    assert "sampling is off, with its cache" in stopped(small(tmp_path, **TWELVE)).message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """It is on in training mode, in the sampler and in the loss, and never the same.

    The probe before the run sees it, and without a probe the first update does.
    """
    real = setup.trainable_policy

    def with_dropout(*arguments: Any) -> Any:
        policy = real(*arguments)
        layer = policy.model.layers[0].mlp
        kind, dropout = type(layer), nn.Dropout(0.5)
        forward = kind.__call__
        monkeypatch.setattr(kind, "__call__", lambda self, x: dropout(forward(self, x)))
        return policy

    monkeypatch.setattr(setup, "trainable_policy", with_dropout)
    with pytest.raises(ModelError, match=r"something in it is random \(dropout\)"):
        train(small(tmp_path, **{**TWELVE, "dtype": dtype}))
    monkeypatch.setattr(setup, "training_plan", lambda *_: BatchPlan())
    error = stopped(small(tmp_path, **{**TWELVE, "dtype": dtype}))
    assert "something in the model is random (dropout)" in error.message


def test_later_updates_are_measured_and_do_not_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once is enough: the rare token that half precision gets wrong must not end a run after hours."""
    step = 0
    real = gradient.accumulate

    def drifting(*arguments: Any, **options: Any) -> Any:
        nonlocal step
        step += 1
        gradients, result = real(*arguments, **options)
        result.logprobs = [logprobs + 0.5 * (step > 1) for logprobs in result.logprobs]
        return gradients, result

    monkeypatch.setattr("grpo_cli.engine.update_policy.accumulate", drifting)
    config = small(tmp_path, **{**TWELVE, "max_steps": 2})
    train(config)
    first, second = (line["ratio_deviation"] for line in lines(config.run_dir))
    assert first < 1e-4
    assert second == pytest.approx(0.5, abs=1e-3)


def test_the_first_update_after_a_resume_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path, **TWELVE)
    train(config)
    monkeypatch.setattr("grpo_cli.engine.run.Objective", too_warm)
    with pytest.raises(TrainingError, match=r"^The sampler and the loss disagree"):
        resume(config.run_dir, ["max_steps=2"])
