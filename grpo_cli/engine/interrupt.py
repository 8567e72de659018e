"""Ctrl-C and SIGTERM as requests: the step is finished and the state saved before the run ends.

    with Interruption() as interruption:
        for step in steps:
            ...
            if interruption.requested: save, and raise KeyboardInterrupt

A second signal ends the run as soon as Python runs again, and a third one whatever it is doing: the last
checkpoint stays as it is.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal is gone


class Interruption:
    """Within the block the first signal sets `requested`, the second raises KeyboardInterrupt.

    The third has its ordinary effect, for a computation that does not come back to Python.
    """

    def __init__(self, on_request: Callable[[], None] = lambda: None) -> None:
        """`on_request` is called at the first signal, to say that it was heard."""
        self.requested = False
        self._tell = on_request
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python takes signals there only
            wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
            self._before = {number: signal.signal(number, self._take) for number in wanted}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            for number in self._before:
                signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.requested = True
        self._tell()
