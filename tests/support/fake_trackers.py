"""Trackers of our own: one that keeps what it gets, and those that raise, refuse or never answer."""

import threading
from dataclasses import dataclass, field
from typing import Any

from grpo_cli.trackers.protocol import Opening, State, Table


@dataclass
class Kept:
    """Keeps every call."""

    opening: Opening
    run_id: str = ""
    steps: list[int] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)
    tables: list[tuple[int, Table]] = field(default_factory=list)
    ended: tuple[State, dict[str, Any]] | None = None

    def log(self, values: dict[str, float], step: int) -> None:
        self.steps.append(step)
        self.values.append(values)

    def log_table(self, table: Table, step: int) -> None:
        self.tables.append((step, table))

    def finish(self, state: State, summary: dict[str, Any]) -> None:
        self.ended = (state, summary)


class Fakes:
    """Opens trackers, and keeps them in the order in which they were opened."""

    def __init__(self) -> None:
        self.opened: list[Kept] = []

    def keeping(self, opening: Opening) -> Kept:
        self.opened.append(Kept(opening, opening.run_id or opening.new_id))
        return self.opened[-1]


class Raising(Kept):
    def log(self, values: dict[str, float], step: int) -> None:
        super().log(values, step)
        if step == 1:
            raise ConnectionError("the server is gone")


class Hanging(Kept):
    def log(self, values: dict[str, float], step: int) -> None:
        super().log(values, step)
        threading.Event().wait()


def refusing(opening: Opening) -> Kept:
    raise PermissionError(f"no access for {opening.name}")


def exiting(opening: Opening) -> Kept:
    raise SystemExit(f"no access for {opening.name}")


def raising(opening: Opening) -> Raising:
    return Raising(opening, opening.new_id)


def hanging(opening: Opening) -> Hanging:
    return Hanging(opening, opening.new_id)
