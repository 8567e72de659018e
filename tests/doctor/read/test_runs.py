"""The runs in a folder: their states, steps, accuracies and sizes, by hand; received folders lie."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.doctor.read.runs import FoundRun, found_runs, is_run, read_run, run_folders
from grpo_cli.engine.run_dir.ending import record_ending
from grpo_cli.engine.run_dir.lock import RunLock
from tests.support.finished_runs import finished
from tests.support.run_folders import checkpoint, finished_folder, run_folder


def one(folder: Path) -> FoundRun:
    (run,) = found_runs(folder)
    return run


def test_a_real_run(tmp_path: Path) -> None:
    config = finished(tmp_path)
    run = one(tmp_path)
    assert (run.name, run.model, run.data) == ("run", config.model_name, "arithmetic")
    assert (run.state, run.pid, run.step, run.total_steps) == ("done", None, 4, 4)
    assert run.size == sum(path.stat().st_size for path in config.run_dir.rglob("*") if path.is_file())
    assert run.is_whole_size
    assert run.started[:2] == "20"


def test_accuracies_are_those_of_the_log(tmp_path: Path) -> None:
    run_folder(tmp_path, "r", accuracies=(0.39, 0.7, 1.0), changed=1_790_000_000)
    run = one(tmp_path)
    assert run.accuracies == [(0, 0.39), (1, 0.7), (2, 1.0)]
    assert (run.step, run.total_steps, run.changed) == (4, None, 1_790_000_000)
    row = run.as_row()
    assert (row["accuracy_before"], row["accuracy_after"]) == (0.39, 1.0)
    assert row["accuracies"][1] == {"step": 1, "accuracy": 0.7}
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_a_run_whose_lock_is_held_is_running(tmp_path: Path) -> None:
    folder = finished_folder(tmp_path, "r")
    with RunLock(folder):
        assert (one(folder).state, one(folder).pid) == ("running", os.getpid())
    assert (one(folder).state, one(folder).pid) == ("done", None)


def test_a_killed_run_left_its_lock_and_is_interrupted(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "r")
    (folder / "run.lock").write_text("1\n")
    assert (one(tmp_path).state, one(tmp_path).pid) == ("interrupted", None)


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "r")
    with RunLock(folder) as lock:
        record_ending(lock, ValueError("no\x1b[2J"))
    assert (one(tmp_path).state, one(tmp_path).reason) == ("failed", "ValueError: no\x1b[2J")
    checkpoint(folder, 4, 4, "final")
    assert one(tmp_path).state == "done"


def test_a_finished_run_that_was_continued_is_not_done(tmp_path: Path) -> None:
    folder = finished_folder(tmp_path, "r")
    assert one(folder).state == "done"
    with (folder / "training_log.jsonl").open("a") as log:
        log.write('{"step": 5}\n')
    assert (one(folder).state, one(folder).step, one(folder).total_steps) == ("interrupted", 5, None)
    checkpoint(folder, 6, 8)
    assert (one(folder).state, one(folder).step, one(folder).total_steps) == ("interrupted", 6, 8)


def test_the_latest_changed_stands_first(tmp_path: Path) -> None:
    for name, changed in (("a", 2000), ("b", 3000), ("c", 1000)):
        run_folder(tmp_path / "deep", name, changed=changed)
    assert [run.name for run in found_runs(tmp_path)] == ["b", "a", "c"]


def test_links_are_listed_and_not_descended_into(tmp_path: Path) -> None:
    real = run_folder(tmp_path / "disk" / "far" / "away", "r")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "run").symlink_to(real)
    (tmp_path / "outputs" / "more").symlink_to(real.parent)
    (tmp_path / "outputs" / "loop").symlink_to(tmp_path / "outputs")
    assert [(run.name, run.is_link) for run in found_runs(tmp_path / "outputs")] == [("run", True)]


@pytest.mark.parametrize("missing", ["config.toml", "training_log.jsonl"])
def test_other_folders_are_no_runs(tmp_path: Path, missing: str) -> None:
    folder = run_folder(tmp_path, "r")
    assert is_run(folder)
    (folder / missing).unlink()
    assert not is_run(folder)
    (folder / missing).symlink_to("/etc/passwd")
    assert not is_run(folder)
    assert run_folders(tmp_path) == []


def test_a_run_without_a_log_is_known_by_its_checkpoint(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "r")
    (folder / "training_log.jsonl").unlink()
    (folder / "checkpoint-7").mkdir()
    assert not is_run(folder)  # a folder of that name may be anyone's
    checkpoint(folder, 2, 4)
    assert is_run(folder)
    assert (read_run(folder).step, read_run(folder).total_steps) == (2, 4)


LIES: list[tuple[str, str]] = [
    ("config.toml", "\x00"),
    ("config.toml", "model_name = [1]\ndataset = 3\nmax_steps = 'x'"),
    ("training_log.jsonl", '{"step": 1e300, "eval_accuracy": 1e300}\n{"step": -4, "eval_accuracy": NaN}\n'),
    ("training_log.jsonl", '[]\n{"step": true, "eval_accuracy": "1"}\n{"eval_accuracy"'),
    ("run.lock", "999999999999\x1b"),
    ("final/manifest.json", "[]"),
    ("final/trainer_state.json", '{"step": -5, "total_steps": 9e99}'),
    ("ended.json", '{"state": "failed", "reason": []}'),
]


@pytest.mark.parametrize(("name", "content"), LIES)
def test_damaged_and_hostile_files_count_as_missing(tmp_path: Path, name: str, content: str) -> None:
    folder = finished_folder(tmp_path, "r", accuracies=(0.5,))
    (folder / name).write_text(content)
    row: dict[str, Any] = one(tmp_path).as_row()
    assert json.dumps(row, allow_nan=False)
    assert row["state"] in ("done", "interrupted")
    assert 0 <= row["step"] <= 4
    assert row["pid"] is None
    assert row["model"] in ("", "Qwen/Qwen2.5-1.5B")
    assert row["accuracies"] in ([], [{"step": 0, "accuracy": 0.5}])
