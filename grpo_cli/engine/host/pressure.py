"""The answers to a machine under pressure, one step at a time.

    watch = PressureWatch(pauses={"pressure", "heat"}, read=lambda: read_facts(System()))
    answer = watch.look()        # between two steps; CALM but for once a minute
    answer.clears_cache, answer.halves_rows, answer.pauses_for

Under memory pressure the first reading clears MLX's cache, a second one in a row halves the rows that are
computed at once, twice in a run at most, and from the third on the run pauses, if it may. Heat counts from
its second reading in a row: a processor often touches its limit for a moment.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from grpo_cli.engine.host.facts import NORMAL, HostFacts

EVERY = 60.0  # seconds between two readings
MOST_SWAPPED = 1 << 30  # bytes swapped out between two readings that count as memory pressure
MOST_PAUSE = 600.0  # seconds of a pause for pressure or heat; the run itself may be the reason
MOST_HALVINGS = 2  # rows never grow again, and a quarter of them is a small part of a run's memory
REST = 1800.0  # seconds between two such pauses
LEVELS = ("", "memory is short", "memory is very short")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one reading. `why`: the reason, for people."""

    clears_cache: bool = False
    halves_rows: bool = False
    pauses_for: str = ""  # battery, pressure, heat; empty: no pause
    why: str = ""


CALM = Answer()


@dataclass(kw_only=True)
class PressureWatch:
    """Reads the machine's state once a minute. `pauses`: the reasons for which a run may pause."""

    pauses: set[str]
    read: Callable[[], HostFacts]
    clock: Callable[[], float] = time.monotonic
    _due: float = field(default=float("-inf"), init=False)
    _rested: float = field(default=float("-inf"), init=False)  # no pause for pressure or heat before
    _short: int = field(default=0, init=False)  # readings in a row with too little memory
    _hot: int = field(default=0, init=False)  # readings in a row with heat
    _halvings: int = field(default=0, init=False)  # so far
    _swapped: int | None = field(default=None, init=False)  # bytes at the last reading
    _read_at: float = field(default=0.0, init=False)  # time of the last reading

    def look(self) -> Answer:
        """The answer to a new reading, if one is due; else CALM."""
        if self.clock() < self._due:
            return CALM
        self._due = self.clock() + EVERY
        facts = self.read()
        why = self.shortage(facts)
        self._short = self._short + 1 if why else 0
        self._hot = self._hot + 1 if facts.heat else 0
        reason, told = self.pause_for(facts, why)
        halves = self._short == 2 and self._halvings < MOST_HALVINGS
        self._halvings += halves
        return Answer(clears_cache=bool(why), halves_rows=halves, pauses_for=reason, why=told or why)

    def shortage(self, facts: HostFacts) -> str:
        """The sign of too little memory in a reading; empty: none."""
        before, self._swapped = self._swapped, facts.swapped
        then, self._read_at = self._read_at, self.clock()
        grown = 0.0 if before is None else facts.swapped - before
        grown *= EVERY / max(self._read_at - then, EVERY, 1e-9)  # a minute's share: steps may be longer
        if facts.memory > NORMAL:
            return LEVELS[facts.memory]
        return f"{grown / 1e9:.1f} GB were swapped out in a minute" if grown > MOST_SWAPPED else ""

    def pause_for(self, facts: HostFacts, shortage: str) -> tuple[str, str]:
        """The reason to pause now and its words; empty: none."""
        if facts.battery and "battery" in self.pauses:
            return "battery", f"on battery ({facts.battery})"
        if self.clock() < self._rested:
            return "", ""
        if self._hot >= 2 and "heat" in self.pauses:
            return "heat", facts.heat
        return ("pressure", shortage) if self._short >= 3 and "pressure" in self.pauses else ("", "")

    def persists(self, reason: str, since: float) -> bool:
        """True if the reason of a pause that began at `since` still holds, from a new reading."""
        if reason != "battery" and self.clock() - since >= MOST_PAUSE:
            return False
        facts = self.read()
        now = {"battery": facts.battery, "heat": facts.heat, "pressure": self.shortage(facts)}
        return bool(now[reason])

    def resumed(self, reason: str) -> None:
        """Count from here again: the pause for this reason is over."""
        self._short = self._hot = 0
        self._due = self.clock() + EVERY
        if reason != "battery":
            self._rested = self.clock() + REST
