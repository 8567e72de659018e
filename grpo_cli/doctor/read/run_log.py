"""The numbers in a run's log. Values that are missing, null, NaN or text are left out.

series(steps, "reward_mean")     # [0.9, 1.1, …]
last_third(series(steps, "kl"))
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from grpo_cli.engine.guards.nothing_learned import FEWEST_STEPS

Item = TypeVar("Item")
LARGEST_NUMBER = 1e100  # sums and squares of smaller numbers stay finite


def number(line: Mapping[str, Any], key: str) -> float | None:
    """A value of a line; None if it is not a finite number."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return (
        float(value) if -LARGEST_NUMBER < value < LARGEST_NUMBER else None
    )  # the comparison is false for NaN


def step_number(line: Mapping[str, Any]) -> int:
    """A line's step number; 0 if it has none."""
    return int(number(line, "step") or 0)


def series(lines: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """A key's numbers, in order."""
    return [value for line in lines if (value := number(line, key)) is not None]


def first_third(values: Sequence[Item]) -> Sequence[Item]:
    """The first third of a run's values, at least one."""
    return values[: max(1, len(values) // 3)]


def last_third(values: Sequence[Item]) -> Sequence[Item]:
    """The last third of a run's values, at least FEWEST_STEPS."""
    return values[-max(FEWEST_STEPS, len(values) // 3) :]


def percent(share: float) -> str:
    """A share in percent: `25 %` for 0.25."""
    return f"{100 * share:.0f} %"


def short(text: object, most: int = 60) -> str:
    """A text from a file on one line, cut to `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
