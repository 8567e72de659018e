"""SIGINT, SIGTERM and SIGHUP outside of a run's steps: nothing stays half written, and it is said."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_cli.cli import main
from grpo_cli.ended import SIGNALS, ended_by_signals
from grpo_cli.errors import Interrupted, Terminated
from grpo_cli.files import written
from tests.support.signals import signals_taken


@pytest.fixture(autouse=True)
def _signals_taken() -> Iterator[None]:
    with signals_taken():
        yield


ENDING = "import os, signal\nos.kill(os.getpid(), signal.{name})\ndef f(completions, **c): return [0.0]\n"


def ended(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command that a signal ends."""
    monkeypatch.setattr(sys, "argv", ["grpo", *words])
    with pytest.raises(SystemExit) as error:
        main.run()
    assert isinstance(error.value.code, int)
    return error.value.code


@pytest.mark.parametrize("number", SIGNALS)
def test_a_file_that_is_being_written_stays_as_it_was(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    before = signal.getsignal(number)
    with pytest.raises(Interrupted), ended_by_signals(), written(path) as name:
        name.write_text("half")
        os.kill(os.getpid(), number)
        signal.pause()
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "old"
    assert signal.getsignal(number) == before


def test_a_closed_terminal_that_is_told_twice_interrupts_no_cleaning_up() -> None:
    with ended_by_signals(), pytest.raises(Terminated, match="Ended by SIGHUP"):
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)


def test_what_nohup_has_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_process_ends_by_the_signal_itself() -> None:
    with ended_by_signals():
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config", "smoke_test", "--set", "eval_steps=0"],
        ["eval", "tiny", "--samples", "2", "--output", "all.jsonl"],
    ],
    ids=["train", "eval"],
)
def test_a_command_that_is_ended_early_says_so_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(ENDING.format(name=name))
    code = ended(*words, "--set", "reward_functions=mine.py:f", monkeypatch=monkeypatch)
    assert (code, capsys.readouterr().err) == (130, f"Ended by {name}.\n")
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["mine.py"]


def test_the_doctor_that_is_ended_says_so_and_keeps_the_earlier_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("grpo_cli.cli.doctor.look", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    code = ended("doctor", "--report", "bug.md", monkeypatch=monkeypatch)
    assert (code, capsys.readouterr().err) == (130, "Ended by SIGTERM.\n")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "words", [["--version"], ["config", "schema"], ["eval", "tiny", "--samples", "1", "--json"]]
)
def test_a_result_that_cannot_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """As of `grpo … >&-`, where Python has no standard output at all."""
    monkeypatch.setattr(sys, "stdout", None)
    assert ended(*words, monkeypatch=monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.startswith("Bad file descriptor: the output could not be written\n\nhint: ")
