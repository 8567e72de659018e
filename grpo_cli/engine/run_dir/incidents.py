"""Everything that interrupted a run, and what was done about it: incidents.jsonl in the run's folder.

    incidents = Incidents(lambda: saver.folder)
    incidents.record(Incident(kind="GPU timeout", step=121, place="the update", done="…", seconds=8.2))
    told(read_incidents(folder))        # a few lines for people

Unlike the log it is never truncated, so that it also holds what happened in steps that a resumed run made
again. Imports no mlx.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from grpo_cli.files import open_log
from grpo_cli.foreign_text import one_line, safe_json
from grpo_cli.untrusted_json import Schema
from grpo_cli.words import plural

INCIDENTS = "incidents.jsonl"
LONGEST = 1 << 20  # bytes that are read of the file, from its end
MOST_TOLD = 4  # lines; the rest is counted
KILLED, INTERRUPTED, RESUMED = "killed", "interrupted", "resumed"
# Reasons of `pause_on` → the kind of the incident.
PRESSURES = {"pressure": "memory pressure", "heat": "heat", "battery": "on battery"}


def now() -> str:
    """The local time as ISO 8601, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Incident:
    """One line of the file."""

    kind: str  # a Failure's name, one of PRESSURES, "killed", "interrupted", "resumed", or "error"
    step: int  # the last finished step
    place: str = ""  # "the update", "rollouts", "the machine", …; empty for the end of a process
    reason: str = ""  # the error's first line
    done: str = ""  # the answer
    seconds: float = 0.0  # that it cost
    time: str = field(default_factory=now)

    @property
    def is_failed_end(self) -> bool:
        """True for the end of a process that the user did not ask for."""
        return not self.place and self.kind not in (INTERRUPTED, KILLED, RESUMED)

    @property
    def line(self) -> str:
        """One line for people: `02:14 step 121: GPU timeout in the update: at most 4 completions at once`."""
        where = f" in {self.place}" if self.place else ""
        lost = f" ({spent(self.seconds)})" if self.seconds >= 1 else ""
        return one_line(f"{self.time[11:16]} step {self.step}: {self.kind}{where}: {self.done}{lost}")

    @property
    def timestamp(self) -> float:
        """Its time in seconds since 1970; 0 if it is not known."""
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(self.time).timestamp()
        return 0.0


class _Line(Schema):
    """The fields of a line, checked."""

    kind: str
    step: int
    place: str = ""
    reason: str = ""
    done: str = ""
    seconds: float = 0.0
    time: str = ""


@dataclass
class Incidents:
    """The record of a run. `folder`: gives its folder at the moment; None = nothing is recorded."""

    folder: Callable[[], Path | None] | None = None
    seen: list[Incident] = field(default_factory=list)  # of this process

    def record(self, incident: Incident) -> None:
        """Append an incident. A failure to write must not end the run that survived the incident."""
        self.seen.append(incident)
        folder = self.folder() if self.folder else None
        if folder is None:  # not the first rank, or the folder was deleted and another one may have its name
            return
        with contextlib.suppress(OSError), open_log(folder / INCIDENTS) as file:
            file.write(f"{safe_json(asdict(incident))}\n".encode())


def read_incidents(folder: Path) -> list[Incident]:
    """The incidents of a run's folder, the oldest first. Damaged lines are skipped."""
    try:
        with (folder / INCIDENTS).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LONGEST))
            lines = file.read(LONGEST).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, ValidationError, RecursionError):
            found.append(Incident(**_Line.model_validate(json.loads(line)).model_dump()))
    return found


def time_lost(saved: float, now: float, before: list[Incident]) -> float:
    """Seconds of work lost at `now` since the checkpoint was `saved`, times in seconds since 1970.

    What earlier kills and failures lost since then is counted already: in the last of `before`.
    """
    counted = [one.timestamp for one in before if one.kind in (KILLED, RESUMED)]
    return max(0.0, now - max([saved, *counted]))


def told(incidents: list[Incident]) -> list[str]:
    """A few lines for people: the count, the time lost, and the latest ones; [] if nothing happened.

    A user's own Ctrl-C is no incident.
    """
    shown = [one for one in incidents if one.kind not in (RESUMED, INTERRUPTED)]
    if not shown:
        return []
    kinds = Counter(one.kind for one in shown)
    words = ", ".join(kind if count == 1 else f"{kind} ×{count}" for kind, count in kinds.most_common())
    lost = sum(one.seconds for one in incidents)
    head = f"{plural(len(shown), 'interruption')}: {words}; {spent(lost)} lost"
    return [one_line(head), *(f"  {one.line}" for one in shown[-MOST_TOLD:])]


def spent(seconds: float) -> str:
    """A duration in its two largest units: `6 min 5 s`."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
