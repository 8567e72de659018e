"""SIGINT, SIGTERM and SIGHUP as exceptions, so that cleanup runs and no file is left half written.

    with ended_by_signals():
        ...                         # Interrupted is raised here, between any two instructions

A signal that is ignored by the parent process, as nohup does, stays ignored. Processes forked within the
block are ended by the signal as usual.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from grpo_cli.errors import Interrupted, Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGINT raises Interrupted; SIGTERM and SIGHUP raise Terminated with their name."""
    owner = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT:
            raise Interrupted
        signal.signal(number, signal.SIG_IGN)  # a closed terminal sends it twice; cleanup must run only once
        raise Terminated(f"Ended by {signal.Signals(number).name}.")

    if threading.current_thread() is not threading.main_thread():  # Python takes signals there only
        yield
        return
    wanted = [number for number in SIGNALS if signal.getsignal(number) in UNTOUCHED]
    before = {number: signal.signal(number, end) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
