"""A non-blocking stderr: writes never wait and never raise, since a separate thread forwards the text.

    hold_nobody()                       # from now on sys.stderr is an Outlet
    with lasting(): print("…")          # this text is never dropped

A paused reader (`| less`), a reader that is gone (`| head`), a closed terminal or a full disk would block any
write of a library, a reward or Python itself, or make it raise. Here the text waits in a queue. If the queue
is full, the oldest lines are dropped; text that the system refuses is lost silently.
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

MOST_WAITING = 1 << 18  # bytes in the queue
PIECE = 4096  # bytes per write, which a pipe accepts atomically
STALL_SECONDS = 2.0  # seconds without progress after which `drain` gives up
LONGEST_END = 10.0  # seconds that `drain` waits at most

_kept = threading.local()


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Text that this thread writes within the block is never dropped."""
    _kept.on = True
    try:
        yield
    finally:
        _kept.on = False


class Text(NamedTuple):
    """A piece of text in the queue."""

    data: bytes
    is_lasting: bool

    def is_begun_line(self, is_lasting: bool) -> bool:
        """True if the next text may continue this one's last line."""
        return not self.data.endswith(b"\n") and len(self.data) < PIECE and self.is_lasting == is_lasting


class Outlet(io.TextIOBase):
    """A text stream that forwards to another stream by a thread."""

    def __init__(self, stream: TextIO) -> None:
        """Raises OSError or ValueError for a stream without a descriptor."""
        self._stream, self._descriptor = stream, stream.fileno()
        self._waiting: deque[Text] = deque()
        self._left_out = 0  # lines dropped since the last write
        self._passed = 0  # pieces written
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # a forked process has no such thread

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._is_writing = False
        self._waiting.clear()
        threading.Thread(target=self._pass_on, name="grpo-outlet", daemon=True).start()

    def write(self, text: str) -> int:
        """Put the text in the queue; returns at once."""
        with self._changed:
            data, is_lasting = text.encode(self.encoding, "backslashreplace"), getattr(_kept, "on", False)
            if self._waiting and self._waiting[-1].is_begun_line(is_lasting):  # print writes "\n" separately
                data = self._waiting.pop().data + data
            self._waiting.append(Text(data, is_lasting))
            self._leave_out()
            self._changed.notify_all()
        return len(text)

    @property
    def is_behind(self) -> bool:
        """True if text is waiting, so that a live display may skip a frame."""
        return bool(self._waiting)

    def drain(self) -> None:
        """Wait until all text is written, for up to LONGEST_END seconds and while there is progress."""
        deadline = time.monotonic() + LONGEST_END
        with self._changed:
            while (self._waiting or self._is_writing) and time.monotonic() < deadline:
                before = self._passed
                if not self._changed.wait(STALL_SECONDS) and self._passed == before:
                    return

    def _leave_out(self) -> None:
        """Drop the oldest text, except lasting text, if the queue is too long."""
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
            except BlockingIOError:  # another process made the descriptor non-blocking
                select.select([], [self._descriptor], [], STALL_SECONDS)
            except OSError:  # there is no other place to report it
                return

    # --- the rest of stderr's interface

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the underlying stream."""
        return self._stream.encoding or "utf-8"

    def fileno(self) -> int:
        """Descriptor of the underlying stream, for other processes."""
        return self._descriptor

    def isatty(self) -> bool:
        """True if the underlying stream is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Always true."""
        return True

    def flush(self) -> None:
        """Does nothing, since flushing would wait for the reader."""


def hold_nobody() -> None:
    """Replace stderr by an Outlet, within its GuardedStream if any; no effect without a descriptor."""
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
    """Wait until stderr's text is written, for a process that ends without its exit handlers."""
    outlet = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    if isinstance(outlet, Outlet):
        outlet.drain()
