"""`grpo resume` as a person runs it, and what signals do to a run."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from grpo_cli.cli.main import app
from grpo_cli.engine.run_dir.manifest import checkpoints, damage
from tests.support.forked import Process, start
from tests.support.waiting import HANG, wait_until

SLOW = ["batch_size=2", "eval_steps=0", "max_steps=400", "save_steps=1"]
SHORT = ["max_steps=2", "batch_size=2", "eval_samples=4", "num_generations=4", "save_steps=1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)


def sets(changes: list[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def grpo(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def started(folder: Path) -> "Process | subprocess.Popen[str]":
    """A run in a process of its own, after its first checkpoint."""
    words = ["-m", "grpo_cli", "train", "--config", "smoke_test", *sets(SLOW)]
    process = start(words, cwd=folder, stderr=subprocess.PIPE)
    checkpoint = folder / "outputs/smoke_test/checkpoint-1"
    wait_until(checkpoint.exists, "the first checkpoint", lambda: process.poll() is None)
    return process


def steps(folder: Path) -> list[int]:
    log = (folder / "outputs/smoke_test/training_log.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in log if "loss" in line]


def test_interrupted_and_resumed_with_the_command_that_was_printed(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 130
    (command,) = re.findall(
        r"\nStopped after step \d+\.\nStep \d+ is .*\nResume with: `grpo (resume .*)`\n$", stderr
    )
    done = steps(tmp_path)[-1]
    again = grpo(*command.split(), "--set", f"max_steps={done + 2}")
    assert again.exit_code == 0, again.stderr
    assert f"note: resuming from outputs/smoke_test/checkpoint-{done}" in again.stderr
    assert f"step {done + 2}/{done + 2}" in again.stderr
    assert f"step {done}/" not in again.stderr
    assert "Done: " in again.stderr
    assert steps(tmp_path) == list(range(1, done + 3))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_and_harms_no_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path)
    process.send_signal(number)
    time.sleep(0.001)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=HANG)
    assert process.returncode in (130, -number)
    assert "Traceback" not in stderr
    found = checkpoints(tmp_path / "outputs/smoke_test")
    assert found and all(damage(folder) is None for folder in found)
    assert grpo("resume", "outputs/smoke_test", *sets(["max_steps=3"])).exit_code == 0


def test_a_second_process_is_refused_with_the_firsts_id(tmp_path: Path) -> None:
    process = started(tmp_path)
    try:
        refused = grpo("resume", "outputs/smoke_test")
        assert refused.exit_code == 1
        assert refused.stderr.splitlines()[0] == (
            f"The run in outputs/smoke_test is in use by the process {process.pid}"
        )
    finally:
        process.kill()
        process.communicate(timeout=HANG)
    assert (tmp_path / "outputs/smoke_test/run.lock").exists()  # it was killed
    assert grpo("resume", "outputs/smoke_test", *sets(["max_steps=5"])).exit_code == 0
    assert not (tmp_path / "outputs/smoke_test/run.lock").exists()


def test_the_guides_own_case_lists_what_there_is() -> None:
    assert grpo("train", "--config", "smoke_test", *sets(SHORT)).exit_code == 0
    missing = grpo("resume", "outputs/checkpoint-1000")
    assert missing.exit_code == 1
    first, empty, hint, more = missing.stderr.splitlines()
    assert more == "more: `grpo doctor --explain checkpoint-not-found`"
    assert first == "Checkpoint not found: outputs/checkpoint-1000"
    assert empty == ""
    assert hint == (
        "hint: there are outputs/smoke_test/checkpoint-1, outputs/smoke_test/checkpoint-2, "
        "outputs/smoke_test/final"
    )


def test_a_complete_run_and_what_cannot_change() -> None:
    assert grpo("train", "--config", "smoke_test", *sets(SHORT)).exit_code == 0
    complete = grpo("resume", "outputs/smoke_test")
    assert complete.exit_code == 0
    assert "is complete, after 2 steps" in complete.stderr.replace("\n", " ")
    refused = grpo("resume", "outputs/smoke_test", "--set", "seed=7")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("seed cannot change when a run is resumed")
    misspelt = grpo("resume", "outputs/smoke_test", "--set", "max_stepz=7")
    assert misspelt.exit_code == 2
    assert "did you mean `max_steps`?" in misspelt.stderr


def test_an_evaluation_knows_a_checkpoint_that_was_copied() -> None:
    assert grpo("train", "--config", "smoke_test", *sets(SHORT)).exit_code == 0
    os.renames("outputs/smoke_test/checkpoint-1", "elsewhere/checkpoint-1")
    done = grpo("eval", "--model", "elsewhere/checkpoint-1", "--samples", "2", "--json")
    assert json.loads(done.stdout)["dataset"] == "arithmetic"


def test_help_shows_two_examples() -> None:
    help_text = grpo("resume", "--help").stdout
    assert "grpo resume outputs/prod\n" in help_text
    assert "grpo resume outputs/prod/checkpoint-200 --set max_steps=400" in help_text
