"""Reading a run's folder, also one that holds other things than a run's files."""

import json
import os
from pathlib import Path

import pytest

from grpo_cli.errors import CheckpointError
from grpo_cli.report.read import read_run, run_folder
from tests.support.report_runs import judged, run_of
from tests.support.run_logs import steps


def test_lines_are_sorted_and_a_step_written_twice_counts_once(tmp_path: Path) -> None:
    first, second = steps(2)
    run = run_of(tmp_path, [judged(0, "1"), second, first, {**second, "loss": 9.0}])
    assert [(line["step"], line["loss"]) for line in run.steps] == [(1, 0.1), (2, 9.0)]
    assert [line["step"] for line in run.evaluations] == [0]
    assert (run.name, run.is_finished, run.settings["run_name"]) == (tmp_path.name, True, "r")


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Run not found: ") as refused:
        read_run(tmp_path)
    assert "training_log.jsonl" in refused.value.hint


def test_the_run_of_a_checkpoint(tmp_path: Path) -> None:
    for name in ("final", "checkpoint-20"):
        (tmp_path / name).mkdir()
        assert run_folder(tmp_path / name) == tmp_path
    assert run_folder(tmp_path) == tmp_path


def test_a_received_folder_may_hold_anything(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "completions.jsonl")
    (tmp_path / "config.toml").write_text("a = [" + "[" * 5000)
    deep = "[" * 5000
    (tmp_path / "training_log.jsonl").write_text(
        f'{{"step": 1, "loss": {deep}\n[]\nnull\n{{"step": 1e400, "loss": 1}}\n'
        + json.dumps(steps(1)[0])
        + "\n"
    )
    run = read_run(tmp_path)
    assert ([line["step"] for line in run.steps], run.completions, run.settings) == ([1], [], {})


def test_settings_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('seed = 1\n[mlx_grpo]\nmodel_name = "x"\n')
    assert read_run(tmp_path).settings == {"seed": 1, "model_name": "x"}
