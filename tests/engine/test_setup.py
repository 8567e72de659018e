"""`--dry-run` does what training does before its first step, and one step with a gradient."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine import events, setup
from grpo_cli.engine.dry_run import dry_run
from grpo_cli.engine.guards.nonfinite import Fault
from grpo_cli.engine.memory.check import check_memory, needs_of
from grpo_cli.errors import TrainingError
from tests.support.small_runs import STEP_KEYS, small


def test_completions_that_are_cut_off_give_a_gradient(tmp_path: Path) -> None:
    config = small(tmp_path, mask_truncated_completions=True, max_new_tokens=4, batch_size=4)
    line = dry_run(config)
    assert line["truncated_fraction"] > 0
    assert line["grad_norm"] > 0


def test_a_step_that_is_skipped_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_cli.engine.update_policy.find_fault", lambda *_: Fault("gradient", "layer 0"))
    with pytest.raises(TrainingError, match="NaN gradient encountered in the dry run: NaN or infinite"):
        dry_run(small(tmp_path))


def test_memory_is_that_of_the_run_and_not_of_the_small_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path, batch_size=16, max_new_tokens=64)
    run = setup.prepare(config)
    needs = needs_of(run)
    assert needs is not None
    budget = needs.peak - 1
    told: list[events.Event] = []
    run.listener = told.append
    check_memory(run, budget)
    monkeypatch.setattr(device, "memory_budget", lambda _: budget)
    seen: list[events.Event] = []
    dry_run(config, seen.append)
    (expected,) = told
    assert isinstance(expected, events.Notice)
    assert expected.text.startswith("this run needs about ")
    assert expected in seen
    monkeypatch.setattr(device, "memory_budget", lambda _: 1000)
    with pytest.raises(TrainingError, match="Unable to allocate memory: a single completion needs about "):
        dry_run(config)


def notices(config: Config) -> list[str]:
    seen: list[events.Event] = []
    setup.prepare(config, seen.append)
    return [event.text for event in seen if isinstance(event, events.Notice)]


def test_a_device_that_rounds_float32_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = (
        "this device computes float32 products as TF32, with 10 bits of mantissa instead of 23; "
        "`exact_float32 = true` computes them in full, more slowly"
    )
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    assert notices(small(tmp_path)) == []  # this CPU
    rounding = replace(device.prepare(), rounds_float32=True)
    monkeypatch.setattr(device, "prepare", lambda: rounding)
    assert notices(small(tmp_path)) == [told]
    assert notices(small(tmp_path, dtype="bfloat16")) == []  # no product is in float32
    assert notices(small(tmp_path, dtype="bfloat16", lora_rank=2)) == [told]  # the adapters' are
    assert notices(small(tmp_path, exact_float32=True)) == []
    assert os.environ["MLX_ENABLE_TF32"] == "0"  # a resumed run's configuration is known this late
    monkeypatch.delenv("MLX_ENABLE_TF32")


def test_a_dry_run_saves_nothing(tmp_path: Path) -> None:
    line = dry_run(small(tmp_path))
    assert set(line) == STEP_KEYS
    assert list(tmp_path.iterdir()) == []
