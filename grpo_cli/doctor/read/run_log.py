"""The numbers of a run's log: what is missing, null, NaN or text is left out.

series(steps, "reward_mean")     # [0.9, 1.1, …]
last_third(series(steps, "kl"))
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from grpo_cli.engine.guards.nothing_learned import FEWEST_STEPS

Item = TypeVar("Item")
LARGEST = 1e100  # sums and squares of what is below stay numbers


def number(line: Mapping[str, Any], key: str) -> float | None:
    """A value of a line, or None where it is no finite number."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -LARGEST < value < LARGEST else None  # false for a NaN


def step_number(line: Mapping[str, Any]) -> int:
    """The step of a line that has one."""
    return int(number(line, "step") or 0)


def series(lines: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """A key's numbers, in order."""
    return [value for line in lines if (value := number(line, key)) is not None]


def first_third(values: Sequence[Item]) -> Sequence[Item]:
    """What a run began with: a third of its steps, one at least."""
    return values[: max(1, len(values) // 3)]


def last_third(values: Sequence[Item]) -> Sequence[Item]:
    """What a run ended with: a third of its steps, five at least."""
    return values[-max(FEWEST_STEPS, len(values) // 3) :]


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.0f} %"


def short(text: object, most: int = 60) -> str:
    """A text from a file in one line, and not longer than it may be."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
