"""The point to resume from: checkpoints that were copied, names of none, a base model that has moved."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.errors import CheckpointError, ModelError
from tests.support.one_step_runs import trained
from tests.support.small_runs import lines


def test_all_weights_need_no_base_and_no_certain_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = trained(place)
    (place / "base [v1]").rename(place.parent / "moved")
    monkeypatch.chdir(place.parent)
    final = resume(run_dir, ["max_steps=2"])
    assert read_state(final)[0].step == 2


@pytest.mark.parametrize("changes", [{"lora_rank": 2}, {"kl_coeff": 0.1}])
def test_who_needs_the_base_is_told_how_to_name_it(place: Path, changes: dict[str, Any]) -> None:
    run_dir = trained(place, **changes)
    (place / "base [v1]").rename(place.parent / "moved")
    with pytest.raises(ModelError) as error:
        resume(run_dir, ["max_steps=2"])
    assert "--set model_name=DIR" in error.value.hint
    final = resume(run_dir, ["max_steps=2", f"model_name={place.parent / 'moved'}"])
    assert read_state(final)[0].step == 2
    final = resume(run_dir, ["max_steps=3"])  # from now on it is known there
    assert read_state(final)[0].step == 3


def test_a_checkpoint_that_was_copied_elsewhere_goes_on_there(done: Config, tmp_path: Path) -> None:
    elsewhere = tmp_path / "usb stick"
    shutil.copytree(done.run_dir / "checkpoint-2", elsewhere / "checkpoint-2")
    before = {path: path.stat().st_mtime_ns for path in done.run_dir.rglob("*")}
    final = resume(elsewhere / "checkpoint-2")
    assert final == elsewhere / "final"
    assert (final / "model.safetensors").read_bytes() == (
        done.run_dir / "final/model.safetensors"
    ).read_bytes()
    assert [line["step"] for line in lines(elsewhere)] == [3, 4]
    assert {path: path.stat().st_mtime_ns for path in done.run_dir.rglob("*")} == before
    assert f'run_name = "{elsewhere.name}"' in (elsewhere / "config.toml").read_text()


@pytest.mark.parametrize("name", ["checkpoint-9", "nowhere/checkpoint-1"])
def test_what_is_not_there_lists_what_is(done: Config, name: str) -> None:
    with pytest.raises(CheckpointError) as error:
        resume(done.run_dir / name)
    assert error.value.message == f"Checkpoint not found: {done.run_dir / name}"
    if name == "checkpoint-9":
        assert str(done.run_dir / "checkpoint-4") in error.value.hint
    with pytest.raises(CheckpointError) as error:  # the guide's own case: without the run's name
        resume(Path(done.output_dir) / "checkpoint-1000")
    assert str(done.run_dir / "checkpoint-1") in error.value.hint


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        resume(tmp_path)
    assert error.value.message == f"Checkpoint not found: {tmp_path}"
    assert "holds none" in error.value.hint
