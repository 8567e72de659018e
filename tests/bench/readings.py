"""The cost of watching the machine: pressure, swap, heat, battery, in seconds a step.

    uv run python -m tests.bench.readings

A run asks before every step, and reads once a minute: files on Linux; on a Mac four short commands, for which
shell scripts stand in here. Counts the processes that a run of 20 steps starts, too.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo_cli import device
from grpo_cli.engine import run
from grpo_cli.engine.host import pressure
from grpo_cli.engine.host.facts import HostFacts, read_facts
from grpo_cli.engine.host.pressure import PressureWatch
from grpo_cli.engine.host.system import System
from grpo_cli.engine.train import train
from tests.support.small_runs import SHORT, small

STEPS = 20
PROCESSES = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.system")
COMMANDS = {
    "sysctl": 'case "$2" in *level) echo 1;; *) echo "total = 2048.00M  used = 12.00M  free = 9.00M";; esac',
    "pmset": "echo \"Now drawing from 'AC Power'\"",
}


class Mac(System):
    """A Mac, by the stand-ins on PATH."""

    system = "Darwin"


def median(call: Callable[[], object], times: int) -> float:
    """Median seconds of a call."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def seconds_of_looks() -> tuple[float, float, float]:
    """Seconds of a look that is not due, of one that reads Linux's files, and of one by four commands."""
    idle = PressureWatch(pauses={"pressure"}, read=HostFacts)
    idle.look()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in COMMANDS.items():
            (Path(folder) / name).write_text(f"#!/bin/sh\n{text}\n")
            (Path(folder) / name).chmod(0o755)
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        assert read_facts(Mac()) == HostFacts(swapped=12 << 20)
        commands = median(lambda: read_facts(Mac()), 50)
    return median(idle.look, 10_000), median(lambda: read_facts(System()), 200), commands


def processes_of_a_run() -> tuple[int, int]:
    """The processes that a run starts in its steps, and its readings."""
    found: list[str] = []
    readings = 0
    real = run.read_facts

    def read(system: System) -> HostFacts:
        nonlocal readings
        readings += 1
        return real(system)

    def hear(event: str, _: Any) -> None:
        if event in PROCESSES:
            found.append(event)

    device.prepare()  # tries its BLAS library in a process of its own
    sys.addaudithook(hear)
    run.read_facts = read  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        train(small(Path(folder), **SHORT | {"max_steps": STEPS, "num_epochs": 10, "keep_awake": False}))
    return len(found), readings


def main() -> None:
    """Print the costs."""
    idle, files, commands = seconds_of_looks()
    print(f"a look before a step, not due: {1e6 * idle:.2f} µs")
    for words, seconds in (("Linux, files", files), ("Mac, four stand-in commands", commands)):
        share = 100 * seconds / pressure.EVERY
        print(f"a reading, once in {pressure.EVERY:.0f} s ({words}): {1e3 * seconds:.2f} ms, {share:.4f} %")
    processes, readings = processes_of_a_run()
    print(f"a run of {STEPS} steps: {readings} reading, {processes} processes started")


if __name__ == "__main__":
    main()
