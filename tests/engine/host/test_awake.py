"""The machine is kept awake once and may sleep again on every way out of a run; by stand-in programs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_cli.engine.host import awake
from tests.support.waiting import HANG, wait_until

# The stand-ins write what they are asked and when they end; each ends as the program that it stands for.
CAFFEINATE = """#!/bin/sh
trap 'echo released >> "$NOTES"; exit 0' TERM
echo "taken caffeinate $1 $2" >> "$NOTES"
while kill -0 "$3" 2>/dev/null; do sleep 0.05; done
echo released >> "$NOTES"
"""
INHIBIT = """#!/bin/sh
trap 'echo released >> "$NOTES"; exit 0' TERM
echo "taken systemd-inhibit $1 $2" >> "$NOTES"
shift 4
"$@" &
wait $!
echo released >> "$NOTES"
"""
PROGRAM = """
import os, sys, time
from pathlib import Path
from grpo_cli.engine.host import awake
from grpo_cli.engine.host.system import System

class Named(System):
    system = sys.argv[1]

awake.BOOTED = Path("/")
awake.UNTIL_GONE = awake.UNTIL_GONE.replace("sleep 5", "sleep 0.05")
with awake.kept_awake(print, Named()):
    while not Path(os.environ["NOTES"]).exists():
        time.sleep(0.02)
    print("working", flush=True)
    if sys.argv[2] == "error":
        raise ValueError("an error")
    while sys.argv[2] != "success":
        time.sleep(0.05)
"""
TAKEN = {
    "Darwin": "taken caffeinate -is -w",
    "Linux": "taken systemd-inhibit --what=idle:sleep --mode=block",
}


@pytest.fixture
def start(tmp_path: Path) -> "Callable[..., tuple[subprocess.Popen[str], Path]]":
    for name, text in (("caffeinate", CAFFEINATE), ("systemd-inhibit", INHIBIT)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def begin(*words: str) -> "tuple[subprocess.Popen[str], Path]":
        notes = tmp_path / "notes"
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(notes)}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words], env=environment, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return process, notes

    return begin


@pytest.mark.parametrize("system", ["Darwin", "Linux"])
@pytest.mark.parametrize("ending", ["success", "error", "SIGINT", "SIGKILL"])
def test_it_is_taken_once_and_released_however_the_run_ends(
    system: str, ending: str, start: "Callable[..., tuple[subprocess.Popen[str], Path]]"
) -> None:
    process, notes = start(system, ending)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    if ending.startswith("SIG"):
        process.send_signal(getattr(signal, ending))
    process.communicate(timeout=HANG)
    wait_until(lambda: "released" in notes.read_text(), "the release")
    assert notes.read_text().splitlines() == [TAKEN[system], "released"]


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert awake.command_for("Darwin", 42) == ["caffeinate", "-is", "-w", "42"]
    monkeypatch.setattr(awake, "BOOTED", tmp_path)
    assert awake.command_for("Linux", 42)[0] == "systemd-inhibit"
    assert awake.command_for("Linux", 42)[-1] == "42"
    monkeypatch.setattr(awake, "BOOTED", tmp_path / "none")
    assert awake.command_for("Linux", 42) == []


def test_a_missing_program_is_told_on_a_mac_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(awake, "BOOTED", tmp_path)
    for system in ("Darwin", "Linux"):
        monkeypatch.setattr("platform.system", lambda name=system: name)
        with awake.kept_awake(told.append):
            pass
    assert told == ["the machine may fall asleep during the run: caffeinate: No such file or directory"]


def test_a_lock_that_is_refused_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As over SSH, where polkit asks for a password."""
    program = tmp_path / "systemd-inhibit"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(awake, "BOOTED", tmp_path)
    monkeypatch.setattr(awake, "REFUSAL_SECONDS", HANG)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    told: list[str] = []
    with awake.kept_awake(told.append):
        pass
    assert told == ["the machine may fall asleep during the run: systemd-inhibit ended with exit code 1"]
