"""An stderr that neither holds nor ends what writes to it: a thread of its own passes the text on.

    hold_nobody()                       # from now on sys.stderr is an Outlet
    with lasting(): print("…")          # this is kept where the rest is dropped

A pipe whose reader pauses (`| less`), a reader that is gone (`| head`), a closed terminal or a full disk
would block the write or make it raise, wherever a library, a reward or Python itself writes. Here the text
waits; where too much waits, the oldest is left out, and what the system refuses is lost without a word.
"""

import atexit
import contextlib
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from grpo_cli.words import plural

MOST_WAITING = 1 << 18  # bytes
PIECE = 4096  # bytes written at once: what a pipe takes whole
PATIENCE = 2.0  # seconds without progress, after which the end of the program waits no longer
LONGEST_END = 10.0  # seconds that it waits in all

_kept = threading.local()


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """What this thread writes within the block is never left out."""
    _kept.on = True
    try:
        yield
    finally:
        _kept.on = False


class Text(NamedTuple):
    """Something written that waits."""

    data: bytes
    is_lasting: bool

    def is_begun_line(self, is_lasting: bool) -> bool:
        """Whether what comes next may belong to its last line."""
        return not self.data.endswith(b"\n") and len(self.data) < PIECE and self.is_lasting == is_lasting


class Outlet(io.TextIOBase):
    """A text stream before another one that has a descriptor."""

    def __init__(self, stream: TextIO) -> None:
        """Raises OSError or ValueError for a stream without a descriptor."""
        self._stream, self._descriptor = stream, stream.fileno()
        self._waiting: deque[Text] = deque()
        self._left_out = 0  # lines since something was passed on
        self._passed = 0  # pieces
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # a fork has neither the thread nor its lock

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._is_writing = False
        self._waiting.clear()
        threading.Thread(target=self._pass_on, name="grpo-outlet", daemon=True).start()

    def write(self, text: str) -> int:
        """Take the text; returns at once."""
        with self._changed:
            data, is_lasting = text.encode(self.encoding, "backslashreplace"), getattr(_kept, "on", False)
            if self._waiting and self._waiting[-1].is_begun_line(is_lasting):  # print gives its end apart
                data = self._waiting.pop().data + data
            self._waiting.append(Text(data, is_lasting))
            self._leave_out()
            self._changed.notify_all()
        return len(text)

    @property
    def is_behind(self) -> bool:
        """Whether text waits: a picture that the next one replaces need not be drawn."""
        return bool(self._waiting)

    def drain(self) -> None:
        """Wait until all is passed on, as long as that goes on."""
        deadline = time.monotonic() + LONGEST_END
        with self._changed:
            while (self._waiting or self._is_writing) and time.monotonic() < deadline:
                before = self._passed
                if not self._changed.wait(PATIENCE) and self._passed == before:
                    return

    def _leave_out(self) -> None:
        """Drop the oldest text that need not last, where too much waits."""
        too_much = sum(len(text.data) for text in self._waiting) - MOST_WAITING
        if too_much <= 0:
            return
        kept: list[Text] = []
        while self._waiting and too_much > 0:
            text = self._waiting.popleft()
            if text.is_lasting:
                kept.append(text)
            else:
                too_much -= len(text.data)
                self._left_out += text.data.count(b"\n")
        self._waiting.extendleft(reversed(kept))

    def _pass_on(self) -> None:
        data = b"\n"
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                while not self._waiting:
                    self._changed.wait()
                before, data, self._is_writing = data, self._waiting.popleft().data, True
                if self._left_out:
                    break_ = "" if before.endswith(b"\n") else "\n"
                    gap = f"{break_}… {plural(self._left_out, 'line')} left out: nobody read them\n"
                    data, self._left_out = gap.encode(self.encoding, "replace") + data, 0
            for start in range(0, len(data), PIECE):
                self._write(data[start : start + PIECE])
                with self._changed:
                    self._passed += 1
                    self._changed.notify_all()

    def _write(self, piece: bytes) -> None:
        while piece:
            try:
                piece = piece[os.write(self._descriptor, piece) :]
            except BlockingIOError:  # somebody made the descriptor non-blocking
                select.select([], [self._descriptor], [], PATIENCE)
            except OSError:  # nobody can be told
                return

    # --- what else is asked of stderr

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's own."""
        return self._stream.encoding or "utf-8"

    def fileno(self) -> int:
        """The stream's own descriptor, for other processes."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Always."""
        return True

    def flush(self) -> None:
        """Nothing: it would wait for the reader."""


def hold_nobody() -> None:
    """Put an Outlet before stderr, if it has a descriptor, and behind its guard, until the program ends."""
    guard = sys.stderr if hasattr(sys.stderr, "rich_proxied_file") else None
    stream = guard.rich_proxied_file if guard else sys.stderr
    if stream is None or isinstance(stream, Outlet):
        return
    with contextlib.suppress(OSError, ValueError):
        outlet = Outlet(stream)
        atexit.register(outlet.drain)
        if guard:
            guard.rich_proxied_file = outlet
        else:
            sys.stderr = outlet


def pass_on_stderr() -> None:
    """Wait until what stderr was given is passed on, before a process ends without its handlers at exit."""
    outlet = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    if isinstance(outlet, Outlet):
        outlet.drain()
