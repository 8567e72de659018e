"""The record of a run's early end in its folder, after real runs and damaged files."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from grpo_cli.engine import events
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.ending import Ending, read_ending, record_ending
from grpo_cli.engine.run_dir.lock import RunLock
from grpo_cli.engine.train import train
from grpo_cli.errors import Interrupted, RewardError
from tests.support.small_runs import SHORT, small

RAISES = "seen = []\ndef mine(completions):\n    seen.append(1)\n    if len(seen) > 2:\n        1 / 0\n"
RAISES += "    return [float(len(text)) for text in completions]\n"


def test_a_run_that_fails_says_why_and_a_resumed_one_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(RAISES)
    config = small(Path("out"), **{**SHORT, "max_steps": 4, "reward_functions": ["mine.py:mine"]})
    with pytest.raises(RewardError):
        train(config)
    ending = read_ending(config.run_dir)
    assert ending is not None
    assert ending.state == "failed"
    assert ending.reason.startswith("Reward `mine` raised ZeroDivisionError: division by zero")
    Path("mine.py").write_text(RAISES.replace("> 2", "> 99"))
    at_start: list[bool] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.RunStarted):  # from here on `--supervise` trusts the file
            at_start.append((config.run_dir / "ended.json").exists())

    resume(config.run_dir, [], listen, accept_changes=True)
    assert at_start == [False]
    assert not (config.run_dir / "ended.json").exists()


def test_a_run_that_fails_before_its_first_step_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def mine(completions):\n    1 / 0\n")
    config = small(tmp_path, **{**SHORT, "reward_functions": [f"{tmp_path / 'mine.py'}:mine"]})
    with pytest.raises(RewardError):
        train(config)
    assert not config.run_dir.exists()


def test_an_interrupted_run_is_not_a_failed_one(tmp_path: Path) -> None:
    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step == 2:
            raise Interrupted("Stopped after step 2.")

    config = small(tmp_path, **SHORT)
    with pytest.raises(Interrupted):
        train(config, listen)
    assert read_ending(config.run_dir) == Ending(state="interrupted", reason="Stopped after step 2.")


def test_the_reason_is_one_short_line_that_steers_no_terminal(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        record_ending(lock, ValueError("\x1b[2J\ud83d" + "x" * 999 + "\nsecond"))
        ending = read_ending(tmp_path)
    assert ending is not None
    assert ending.reason == "ValueError: \x1b[2J\ufffd" + "x" * 283  # 300 characters in all
    assert b"\x1b" not in (tmp_path / "ended.json").read_bytes()


def test_another_folder_under_the_same_name_is_not_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with RunLock(folder) as lock:
        shutil.rmtree(folder)
        folder.mkdir()
        record_ending(lock, ValueError("x"))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", '{"state": "done"}', '{"state": 3}', " " * 70000, "{" * 9000])
def test_a_damaged_file_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "ended.json").write_text(content)
    assert read_ending(tmp_path) is None


def test_a_pipe_says_nothing(tmp_path: Path) -> None:
    subprocess.run(["sh", "-c", f"mkfifo {shlex.quote(str(tmp_path / 'ended.json'))}"], check=True)
    assert read_ending(tmp_path) is None
