"""Signals as a command finds them that a person starts in a terminal."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

USUAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


@contextmanager
def signals_taken() -> Iterator[None]:
    """Within the block no signal is ignored, as a shell's `&` has SIGINT and nohup SIGHUP."""
    before = {number: signal.signal(number, handler) for number, handler in USUAL.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
