"""Graceful stop on Ctrl-C, SIGTERM and a closed terminal: the current step is finished and saved first.

    with Interruption() as interruption:
        for step in steps:
            with interruption.breakable():
                ...                         # a second Ctrl-C or SIGTERM is raised here, and nowhere else
            if interruption.requested: save, and raise Interrupted

The handler only sets flags and prints nothing: it runs between any two instructions, and the terminal may be
gone. A third signal ends the process at once; the last checkpoint stays intact. Processes forked by a reward
inherit the handler but end as without it, since a Pool waits for its workers to end.

SIGTERM may come twice for one request: systemd sends it to every process of a service, and the parent of
`--supervise` passes its own on. So a second one counts only after ECHO_SECONDS.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from grpo_cli.errors import Interrupted

URGENT = (signal.SIGINT, signal.SIGTERM)  # the second one stops at once
SIGNALS = (*URGENT, signal.SIGHUP)  # a closed terminal sends SIGHUP twice, by the system and by the shell
ECHO_SECONDS = 1.0


class Interruption:
    """Handles the stop signals within the block."""

    def __init__(self) -> None:
        self.requested = False  # stop after this step
        self.is_urgent = False  # stop at once
        self._is_breakable = False
        self._last_term = float("-inf")  # when SIGTERM came, by the monotonic clock
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
        """Marks work that can be aborted at any moment. Raises Interrupted for an urgent signal."""
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
        if number == signal.SIGTERM:
            before, self._last_term = self._last_term, time.monotonic()
            if self._last_term - before < ECHO_SECONDS:
                return
        if not self.requested or number not in URGENT:
            self.requested = True
            return
        self.is_urgent = True
        for urgent in URGENT:
            signal.signal(urgent, signal.SIG_DFL)
        if self._is_breakable:
            raise Interrupted
