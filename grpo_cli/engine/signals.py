"""Ctrl-C, SIGTERM and a closed terminal as requests: the step is finished and saved before the run ends.

    with Interruption() as interruption:
        for step in steps:
            with interruption.breakable():
                ...                         # a second Ctrl-C or SIGTERM is raised here, and nowhere else
            if interruption.requested: save, and raise Interrupted

A handler sets flags and says nothing: it runs between any two instructions, and what it would write to may
be gone. A third signal ends the process whatever it is doing: the last checkpoint stays as it is. A process
that a reward forked has the handler too, and ends as it would without: a Pool waits for its workers' end.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from grpo_cli.errors import Interrupted

URGENT = (signal.SIGINT, signal.SIGTERM)  # sent again, they mean: at once
SIGNALS = (*URGENT, signal.SIGHUP)  # the terminal is gone: told by the system and again by the shell


class Interruption:
    """The signals that came within the block."""

    def __init__(self) -> None:
        self.requested = False  # the run is to end after this step
        self.is_urgent = False  # it is to end at once
        self._is_breakable = False
        self._owner = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python takes signals there only
            wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
            self._before = {number: signal.signal(number, self._take) for number in wanted}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Around work that can be given up at any moment. Raises Interrupted for an urgent signal."""
        self._is_breakable = True
        try:
            if self.is_urgent:
                raise Interrupted
            yield
        finally:
            self._is_breakable = False

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if not self.requested or number not in URGENT:
            self.requested = True
            return
        self.is_urgent = True
        for urgent in URGENT:
            signal.signal(urgent, signal.SIG_DFL)
        if self._is_breakable:
            raise Interrupted
