"""Waiting for conditions instead of seconds: a busy machine makes a test slow and never makes it fail.

wait_until(lambda: (folder / "checkpoint-2").exists(), "the first checkpoint")
process.communicate(timeout=HANG)          # ends when the process does
time.sleep(NEVER)                          # in what a test expects nobody to wait for
assert time.monotonic() - started < HANG   # and nobody did
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

HANG = 1800.0  # seconds; only what never ends takes so long, on however busy a machine
NEVER = 2 * HANG


def wait_until(
    condition: Callable[[], object], what: str, still: Callable[[], object] = lambda: True
) -> None:
    """Return once the condition holds. AssertionError where `still` no longer does, or after HANG seconds."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert still(), f"{what} did not come, and cannot any more"
        assert time.monotonic() < deadline, f"{what} did not come within {HANG:.0f} s"
        time.sleep(0.02)


def slowness() -> float:
    """A measured factor, at least 1, for seconds that serve a quiet machine."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import mlx.core, rich.console, typer"], check=True)
    return max(1.0, (time.monotonic() - started) / 0.5)


@contextmanager
def no_wait_forever() -> Iterator[None]:
    """Fails where something waits for the other end of a pipe; long after anything slow is done."""

    def end(*_: object) -> None:
        pytest.fail("it waits for the other end of a pipe")  # no Exception, which the code might handle

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(600)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
