"""Watch the ranks of a run, and end this one if another is gone: MLX itself would wait forever.

    watch = Watch(place.rank, place.size, links, on_end=leave)
    watch.set_phase(Phase.SAMPLING) # the current work of this rank
    watch.sign()                    # sign of life: called between two tokens, two microbatches, …
    watch.trouble                   # the reason why the run cannot continue, or None

Every rank sends its neighbours twice a second what it knows of all ranks, so that news travels around the
ring. A killed process closes its connections at once. One that hangs still sends, but without a sign of work
for longer than ever: five times its longest pause so far in the same kind of work, and at least a minute, or
half an hour in work that gives no signs (loading, scoring, saving). A rank whose launcher is gone also ends:
nobody could stop it.

In case of trouble the main thread has GRACE seconds to notice it; then it saves and ends by itself,
however long that takes. If it does not notice, `on_end` is called, which ends the process: the main thread
may sit in a collective that never returns.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from grpo_cli.distributed.links import Link, Patience
from grpo_cli.distributed.phase import Phase

BEAT = 0.5  # seconds
LOOK = 0.05  # seconds between two checks of the other ranks' messages
SILENCE = 60.0  # seconds without a heartbeat: the machine or network is gone, or the process is stopped
PAUSE_FACTOR = 5.0  # times the longest pause so far
LEAST, UNMEASURED = 60.0, 1800.0  # seconds: the shortest limit, and the limit for unmeasured work
SIGNED = (
    Phase.SAMPLING,
    Phase.UPDATING,
    Phase.EVALUATING,
)  # work with continuous signs of life; other work has none
GRACE = 5.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Status:
    """A rank's own status; a higher `beat` is newer."""

    rank: int
    host: str
    beat: int = 0
    doing: str = Phase.STARTING  # a str, so that a message of another version can be read
    idle: float = 0.0  # seconds since its last sign of work
    limit: float = UNMEASURED  # a longer idle time counts as hanging
    ended: str | None = None  # None: running; "": finished; otherwise the reason for the end

    @property
    def name(self) -> str:
        """The rank and its host."""
        return f"rank {self.rank} ({self.host})"


class Watch:
    """This rank's knowledge of all ranks, updated by its own threads."""

    def __init__(
        self,
        rank: int,
        size: int,
        links: Mapping[int, Link],
        host: str,
        on_end: Callable[[str], None],
        is_orphan: Callable[[], bool] = lambda: False,
    ) -> None:
        self.rank, self.links, self.on_end, self.is_orphan = rank, links, on_end, is_orphan
        self.fixed_limit = 0.0  # heartbeat timeout in seconds; 0: adaptive
        self.trouble: str | None = None
        self.is_noticed = False  # the main thread knows of the trouble: it saves and ends by itself
        self._lock = threading.RLock()
        self._table = {
            other: Status(rank=other, host="?" if other != rank else host) for other in range(size)
        }
        self._heard = dict.fromkeys(self._table, time.monotonic())
        self._longest: dict[str, float] = {}  # longest pause by kind of work
        self._last_sign = time.monotonic()
        self._is_closed = threading.Event()
        for link in links.values():
            threading.Thread(target=self._listen, args=[link], daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def set_phase(self, doing: Phase) -> None:
        """Start another kind of work."""
        with self._lock:
            self.sign()
            self._table[self.rank] = replace(self._table[self.rank], doing=doing)

    def sign(self) -> None:
        """Record a sign of work."""
        with self._lock:
            now, doing = time.monotonic(), self._table[self.rank].doing
            self._longest[doing] = max(self._longest.get(doing, 0.0), now - self._last_sign)
            self._last_sign = now

    @property
    def doing(self) -> Phase:
        """The current kind of work."""
        return Phase(self._table[self.rank].doing)

    def close(self, ended: str = "") -> None:
        """Say goodbye: all is done, or the reason for the end."""
        self._is_closed.set()
        self.say(ended)
        for link in self.links.values():
            link.close()

    def reason(self) -> str | None:
        """The reason why the run cannot continue; waits briefly if it is not known yet."""
        deadline = time.monotonic() + 4 * BEAT
        while self.trouble is None and time.monotonic() < deadline:
            time.sleep(LOOK)
        return self.trouble

    def meet(self, seconds: float, on_wait: Callable[[str], None] = lambda _: None) -> str | None:
        """Wait until every rank is about to connect; returns the reason if that fails, else None.

        All ranks have been informed by then: none of our threads can send anything while MLX connects.
        """
        self.set_phase(Phase.CONNECTING)
        patience, told = Patience(seconds, on_wait), None
        while patience.wait_for(names := ", ".join(self._late())):
            if names != told:  # pass every arrival on: the others have links to their neighbours only
                self._tell()
                told = names
            if self.trouble or not names:
                return self.trouble
            time.sleep(LOOK)
        return f"{names} did not connect within {seconds:.0f} s"

    def _late(self) -> list[str]:
        """Ranks that are not yet about to connect."""
        with self._lock:
            return [status.name for status in self._table.values() if status.doing == Phase.STARTING]

    def say(self, ended: str) -> None:
        """Send the others the reason for this rank's end."""
        self._tell(ended=ended)

    def _tell(self, **changes: Any) -> None:
        with self._lock:
            self._update(**changes)
        self._send()

    def is_told_of(self, ending: str) -> bool:
        """True if a lower rank ends too, with the same message. Waits for lower ranks that are still running:
        when a rank is gone the launcher ends the others, perhaps in the middle of their output.
        """
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            with self._lock:
                told = [self._table[rank].ended for rank in range(self.rank)]
            if any(tells(rank, words or "", self.rank, ending) for rank, words in enumerate(told)):
                time.sleep(BEAT)
                return True
            if all(words is not None for words in told):
                return False
            time.sleep(LOOK)
        return False

    def _update(self, **changes: Any) -> None:
        mine = self._table[self.rank]
        idle = time.monotonic() - self._last_sign
        self._table[self.rank] = replace(
            mine, beat=mine.beat + 1, idle=idle, limit=self._limit(mine.doing), **changes
        )

    def _limit(self, doing: str) -> float:
        if self.fixed_limit:
            return self.fixed_limit
        longest = self._longest.get(doing)
        least = LEAST if doing in SIGNED and longest is not None else UNMEASURED
        return max(least, PAUSE_FACTOR * (longest or 0.0))

    def _beat(self) -> None:
        while not self._is_closed.wait(BEAT):
            with self._lock:
                self._update()
                self._judge()
            self._send()
            if self.trouble is not None:
                self._end(self.trouble)
                return

    def _send(self) -> None:
        with self._lock:
            table = [asdict(status) for status in self._table.values()]
        for link in self.links.values():
            try:
                link.send(table)
            except OSError:  # its reader notices, and knows the rank
                continue

    def _listen(self, link: Link) -> None:
        for table in link.lines():
            try:
                self._take([Status(**status) for status in table])
            except (TypeError, KeyError):  # not a rank's message
                break
        with self._lock:
            other = self._table[link.rank]
            if other.ended is None and not self._is_closed.is_set():
                gone = f"{other.name} is gone: its process was killed, or its machine or the network failed"
                self._table[link.rank] = replace(other, beat=other.beat + 1, ended=gone)

    def _take(self, table: list[Status]) -> None:
        with self._lock:
            for status in table:
                if status.rank != self.rank and status.beat > self._table[status.rank].beat:
                    self._table[status.rank] = status
                    self._heard[status.rank] = time.monotonic()

    def _judge(self) -> None:
        self.trouble = find_trouble(list(self._table.values()), self.rank, self._silences())
        if self.trouble is None and self.is_orphan():
            self.trouble = f"{self._table[self.rank].name} has lost its launcher"
        if self.trouble is not None:
            self._update(ended=self.trouble)

    def _silences(self) -> dict[int, float]:
        now = time.monotonic()
        return {rank: now - heard for rank, heard in self._heard.items() if rank != self.rank}

    def _end(self, trouble: str) -> None:
        """Pass the news on, wait for the main thread, and end."""
        deadline = time.monotonic() + GRACE
        while self.is_noticed or time.monotonic() < deadline:
            if self._is_closed.wait(BEAT):
                return
            self._send()
        self.on_end(trouble)


def tells(lower: int, words: str, rank: int, ending: str) -> bool:
    """True if a lower rank's last words report the same as another's: the same error of its own, or the same
    news of a third rank.
    """
    own, its = f"rank {rank} (", f"rank {lower} ("
    if ending.startswith(own):
        return words.startswith(its) and words.partition(" ended: ")[2] == ending.partition(" ended: ")[2]
    return words == ending and not words.startswith(its)


def find_trouble(table: list[Status], own_rank: int, silences: Mapping[int, float]) -> str | None:
    """The reason why a run cannot continue, from the status of its ranks; None if it can.

    `silences`: seconds since the last message of each other rank. A rank that waits for others does not count
    as hanging.
    """
    for status in table:
        if status.ended and status.rank != own_rank:
            return status.ended
    running = [status for status in table if status.ended is None]
    for status in running:
        if silences.get(status.rank, 0.0) > SILENCE:
            return (
                f"{status.name} has not been heard from for {silences[status.rank]:.0f} s: its process is "
                "stopped, or its machine or the network failed"
            )
    ages = {status.rank: status.idle + silences.get(status.rank, 0.0) for status in running}
    for status in running:
        if status.doing != Phase.WAITING and ages[status.rank] > status.limit:
            return f"{status.name} hangs: no sign of work for {ages[status.rank]:.0f} s while {status.doing}"
    stand_still = all(
        status.doing == Phase.WAITING and ages[status.rank] > status.limit for status in running
    )
    if len(running) == len(table) and stand_still:
        return (
            f"all ranks have waited for one another for {min(ages.values()):.0f} s: the network between "
            "them failed"
        )
    return None
