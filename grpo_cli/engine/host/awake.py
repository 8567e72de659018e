"""Keep the machine from sleeping while a run works.

    with kept_awake():
        ...                    # the run; the machine may sleep again however this process ends

A Mac's `caffeinate -w` ends by itself with the process that it names. On Linux `systemd-inhibit` holds its
lock as long as the command that it runs, a shell that looks every few seconds if the process is still there.
Both therefore also end after `kill -9`. The display may sleep.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_cli.engine.host.system import System

BOOTED = Path("/run/systemd/system")  # exists if systemd runs (sd_booted(3))
UNTIL_GONE = 'while kill -0 "$1" 2>/dev/null; do sleep 5; done'
END_SECONDS = 5.0
REFUSAL_SECONDS = 0.3  # in which `systemd-inhibit` ends if it may not hold a lock


def command_for(system: str, pid: int) -> list[str]:
    """The command that keeps the machine awake until the process `pid` ends; empty if there is none."""
    if system == "Darwin":
        return ["caffeinate", "-is", "-w", str(pid)]
    if not BOOTED.is_dir():  # a container: nothing here puts the machine to sleep
        return []
    what = ["--what=idle:sleep", "--mode=block", "--who=grpo", "--why=a training run"]
    return ["systemd-inhibit", *what, "sh", "-c", UNTIL_GONE, "sh", str(pid)]


@contextmanager
def kept_awake(tell: Callable[[str], None], system: System | None = None) -> Iterator[None]:
    """Within the block the machine does not sleep by itself. `tell` receives the reason if a Mac may."""
    name = (system or System()).system
    command = command_for(name, os.getpid())
    process = None
    may_sleep = "the machine may fall asleep during the run"
    try:
        process = start(command) if command else None
    except OSError as error:
        if name == "Darwin":  # every Mac has it; a Linux machine need not
            tell(f"{may_sleep}: {command[0]}: {error.strerror}")
    if process is not None and name != "Darwin" and (code := refused(process)) is not None:
        tell(f"{may_sleep}: {command[0]} ended with exit code {code}")
    try:
        yield
    finally:
        if process is not None:
            end(process)


def start(command: list[str]) -> "subprocess.Popen[bytes]":
    """Start the command in a session of its own, so that a Ctrl-C does not end it before the run."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def refused(process: "subprocess.Popen[bytes]") -> int | None:
    """The exit code of a command that ended at once, as it does over SSH; None if it holds its lock."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(REFUSAL_SECONDS)
    return None


def end(process: "subprocess.Popen[bytes]") -> None:
    """End the command with its children, and wait for it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
            return
