"""An event loop in its own thread, so that async rewards run while this thread does other work.

It lives as long as its scorer rather than one batch, so that objects a reward keeps between calls (a client
with open connections, a semaphore) stay usable. TRL's trainer does the same.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

CLOSING_SECONDS = 2.0


class Background:
    """An event loop that runs until `close`."""

    def __init__(self, name: str = "grpo-rewards") -> None:
        self._loop = asyncio.new_event_loop()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start a coroutine and return its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Cancel running tasks and stop the loop. A coroutine that blocks the loop stays in its daemon
        thread.
        """
        self._is_closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSING_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._is_closing:
                # A SystemExit in a task started by a reward also leaves the loop; the awaiting coroutine gets
                # it too.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
