"""A run that restarts itself: bounded, with the variables that the failure asks for."""

import os
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.cli import restart
from grpo_cli.cli.restart import MOST_RESTARTS, TIMES, restarting, restarts
from grpo_cli.engine.failures import GPU_TIMEOUT
from grpo_cli.engine.recovery import SMALL_BUFFERS, Restart
from grpo_cli.errors import ConfigError, TrainingError


class Replaced(Exception):
    """Stands for the new process."""


def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str = "", alone: bool = True) -> list[Any]:
    """The words of the new process that a timeout starts; raises Replaced in its place."""
    found: list[Any] = []

    def execv(_path: str, words: list[str]) -> None:
        found.extend(words)
        raise Replaced

    monkeypatch.setattr(os, "execv", execv)
    for name in (*SMALL_BUFFERS, TIMES):
        monkeypatch.setenv(name, at if name == TIMES else "")
    with restarting(quiet=True, is_alone=alone):
        error = Restart(GPU_TIMEOUT, "Caused GPU Timeout Error", SMALL_BUFFERS)
        error.run_dir = tmp_path
        raise error
    return found


def test_the_new_process_resumes_the_run_with_smaller_command_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(restart.time, "time", lambda: 10_000.0)
    with pytest.raises(Replaced):
        failing(tmp_path, monkeypatch, "9000,1")
    assert os.environ[TIMES] == "9000,10000"
    assert {name: os.environ[name] for name in SMALL_BUFFERS} == SMALL_BUFFERS
    assert "Caused GPU Timeout Error" in capsys.readouterr().err


def test_too_many_within_an_hour_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart.time, "time", lambda: 10_000.0)
    with pytest.raises(Restart):
        failing(tmp_path, monkeypatch, ",".join(["9000"] * MOST_RESTARTS))


def test_one_of_several_ranks_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Restart):
        failing(tmp_path, monkeypatch, alone=False)


@pytest.mark.parametrize("error", [TrainingError("NaN"), ConfigError("no such key")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)), restarting(quiet=True):
        raise error


def test_times_of_the_last_hour_count_and_nothing_else() -> None:
    assert restarts("9000,6399,x,,99999,10000", 10_000.0) == [9000.0, 10000.0]
