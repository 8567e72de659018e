"""One tracker in a thread of its own, which never makes the run wait.

    worker = Worker("wandb", open_wandb, opening, memory_file, memory)
    worker.put(Item(kind="step", step=1, values={"train/reward": 0.5}))
    worker.notices()                    # messages for the user since the last call
    worker.end(State.FINISHED, {"verdict": "…"})
    worker.wait(deadline=time.monotonic() + CLOSING_SECONDS)

Up to LONGEST_QUEUE items wait for a slow tracker; further ones are left out. A tracker that raises is
switched off. Each kind of trouble is told once.
"""

import queue
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from grpo_cli.engine.events import in_one_line
from grpo_cli.trackers.memory import Memory
from grpo_cli.trackers.protocol import Opening, OpenTracker, State, Table, Tracker

LONGEST_QUEUE = 256  # items
HANGING_SECONDS = 60.0  # of one call, after which it is told
OPENING_SECONDS = 180.0  # the same for opening a tracker: mlflow makes a database
CHECKING_SECONDS = 0.1
CLOSING_SECONDS = 60.0  # that the end of a run waits for all trackers that answer


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something to report: a step's or an evaluation's values, or a step's completions."""

    kind: str  # "step" | "evaluation" | "table": each of them is sent once for a step
    step: int
    values: dict[str, float] = field(default_factory=dict)
    table: Table | None = None


@dataclass(frozen=True)
class _Ending:
    state: State
    summary: dict[str, float | str]


class Worker:
    """A tracker, its thread and its queue. All methods return at once, except `wait`."""

    def __init__(
        self, name: str, open_tracker: OpenTracker, opening: Opening, file: Path, memory: Memory
    ) -> None:
        """`file`: where the memory is saved. The tracker is opened by the thread."""
        self.name = name
        self._open, self._file, self._memory = open_tracker, file, memory
        self._opening = replace(opening, run_id=memory.run_id, tell=self._tell)
        self._queue: queue.Queue[Item | _Ending] = queue.Queue(LONGEST_QUEUE)
        self._told: deque[str] = deque()
        self._kinds_told: set[str] = set()
        self._is_off = False
        self._busy_since: float | None = time.monotonic()
        self._patience = OPENING_SECONDS
        self._thread = threading.Thread(target=self._work, name=f"grpo-{name}", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Report an item; if too many wait already, it is left out."""
        if self._is_off:
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._once("full", f"is too slow: steps from {item.step} on are left out there")

    def notices(self) -> list[str]:
        """The messages for the user since the last call."""
        if self._hangs:
            self._once("hangs", f"has not answered for {self._patience:.0f} s; the run goes on without it")
        return [self._told.popleft() for _ in range(len(self._told))]

    def end(self, state: State, summary: dict[str, float | str]) -> None:
        """Report the run's end: the last item of the queue. If that is full, its oldest item is left out."""
        while True:
            try:
                return self._queue.put_nowait(_Ending(state, summary))
            except queue.Full:
                with suppress(queue.Empty):
                    self._queue.get_nowait()

    def wait(self, deadline: float) -> None:
        """Wait until all is reported, up to `deadline` (of time.monotonic), and not for a hung call."""
        while self._thread.is_alive() and time.monotonic() < deadline and not self._hangs:
            self._thread.join(CHECKING_SECONDS)
        if self._thread.is_alive():
            self._is_off = True
            self._once("hangs", "did not take everything before the end: its last values are missing")

    @property
    def _hangs(self) -> bool:
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._patience

    # --- in the thread

    def _work(self) -> None:
        try:
            tracker = self._open(self._opening)
            self._memory.run_id = tracker.run_id
            self._memory.write(self._file)
            while not self._is_off:
                self._busy_since = None
                item = self._queue.get()
                self._busy_since, self._patience = time.monotonic(), HANGING_SECONDS
                if isinstance(item, _Ending):
                    tracker.finish(item.state, item.summary)
                    return
                self._send(tracker, item)
        except BaseException as error:  # a tracker is another program's code, and may even call sys.exit
            self._once("off", f"failed and is switched off, the run goes on: {in_one_line(error)}")
        finally:
            self._is_off = True
            self._busy_since = None

    def _send(self, tracker: Tracker, item: Item) -> None:
        """Send an item, unless it was sent before the run was resumed.

        It is noted first: after a kill in between, a step is missing there rather than there twice.
        """
        if not self._memory.take(item.kind, item.step):
            return
        self._memory.write(self._file)
        if item.table is None:
            tracker.log(item.values, item.step)
        else:
            tracker.log_table(item.table, item.step)

    def _once(self, kind: str, text: str) -> None:
        if kind not in self._kinds_told:
            self._kinds_told.add(kind)
            self._tell(text)

    def _tell(self, text: str) -> None:
        self._told.append(f"{self.name} {text}")
