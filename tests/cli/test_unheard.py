"""Runs in processes of their own whose output is closed, paused, or a terminal that is gone."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_cli.engine.run_dir.manifest import checkpoints, damage
from grpo_cli.engine.run_dir.run_state import read_state
from tests.support import waiting
from tests.support.forked import Running, start
from tests.support.small_runs import lines
from tests.support.waiting import HANG

SETTINGS = {
    "model_name": "tiny", "dataset": "arithmetic", "system_prompt": "", "completion_prefix": "",
    "batch_size": 1, "gradient_accumulation_steps": 1, "num_generations": 2, "max_new_tokens": 4,
    "eval_steps": 0, "save_steps": 0, "run_name": "run", "reward_functions": "talks.py:talks",
}  # fmt: skip
REWARD = """
def talks(completions, **columns):
    print("x" * 100_000)
    return [float(index) for index in range(len(completions))]
"""


def begin(folder: Path, steps: int, stderr: int, **more: object) -> Running:
    """Start a run of so many steps in a folder."""
    (folder / "talks.py").write_text(REWARD)
    settings = {**SETTINGS, "max_steps": steps, "output_dir": folder}
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    words = ["-m", "grpo_cli", "train", "--config", "smoke_test", *changes]
    if not more:
        return start(words, cwd=folder, stderr=stderr, stdout=stderr)
    command = [sys.executable, *words]
    return subprocess.Popen(command, cwd=folder, stderr=stderr, stdout=stderr, text=True, **more)  # type: ignore[call-overload]


def wait_until(condition: Callable[[], bool], process: Running) -> None:
    """Wait for something that a process does."""
    waiting.wait_until(condition, "what the run does", lambda: process.poll() is None)


def steps(run_dir: Path) -> int:
    """Steps that the log has."""
    return len(lines(run_dir)) if (run_dir / "training_log.jsonl").exists() else 0


def check_interrupted(process: Running, run_dir: Path) -> None:
    """The run has ended as an interrupted one, with its last step saved."""
    assert process.wait(HANG) == 130
    (saved,) = checkpoints(run_dir)
    assert damage(saved) is None
    assert read_state(saved)[0].step == steps(run_dir)


def test_a_run_whose_reader_is_gone_goes_on_to_its_end(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process = begin(tmp_path, 6, writing)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    assert process.wait(HANG) == 0
    assert steps(tmp_path / "run") == 6
    assert damage(tmp_path / "run" / "final") is None


def test_a_reader_that_pauses_holds_neither_the_run_nor_its_signals_nor_its_end(tmp_path: Path) -> None:
    reading, writing = os.pipe()  # holds 64 KiB, and nobody reads
    process = begin(tmp_path, 10_000, writing)
    wait_until(lambda: steps(tmp_path / "run") > 8, process)
    process.send_signal(signal.SIGINT)
    check_interrupted(process, tmp_path / "run")
    os.close(writing)
    os.close(reading)


@pytest.mark.skipif(not hasattr(termios, "TIOCSCTTY"), reason="no controlling terminals here")
def test_a_terminal_that_is_closed_ends_the_run_with_its_step_saved(tmp_path: Path) -> None:
    master, slave = os.openpty()
    process = begin(
        tmp_path,
        10_000,
        slave,
        stdin=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    os.set_blocking(master, False)

    def read_on() -> bool:
        try:
            while os.read(master, 1 << 16):
                pass
        except BlockingIOError:
            pass
        return steps(tmp_path / "run") > 2

    wait_until(read_on, process)
    os.close(master)  # the system sends SIGHUP; every write is an EIO from now on
    check_interrupted(process, tmp_path / "run")
