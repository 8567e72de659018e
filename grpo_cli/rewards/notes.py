"""Extra output of a reward during one call: TRL's `log_metric` and `log_extra`.

notes = Notes(count=2)
notes.log_metric("parsed", 0.5)              # in the step's line of training_log.jsonl
notes.log_extra("found", ["18", None])       # in the completions' lines of completions.jsonl
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from grpo_cli.words import plural

Metrics = Mapping[str, Sequence[float]]  # all values logged under each name


@dataclass
class Notes:
    """Notes of one reward call on `count` completions, as plain data."""

    count: int
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, list[Any]] = field(default_factory=dict)

    def log_metric(self, name: str, value: float) -> None:
        """Record a number. Raises ValueError or TypeError at the reward's own line for anything else."""
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"log_metric({name!r}, {value!r}): the value must be a finite number")
        self.metrics.setdefault(str(name), []).append(number)

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Record one value per completion as JSON; values that JSON cannot represent become text."""
        found = list(values)
        if len(found) != self.count:
            raise ValueError(
                f"log_extra({column!r}, …): {plural(len(found), 'value')} for "
                f"{plural(self.count, 'completion')}"
            )
        self.extras[str(column)] = [as_plain(value) for value in found]


def as_plain(value: Any) -> Any:
    """The value as plain JSON data. ValueError for NaN and lone surrogates."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    text.encode()
    return json.loads(text)


def together(metrics: Iterable[Metrics]) -> dict[str, list[float]]:
    """All values of each name, merged over calls, groups, batches or ranks."""
    found: dict[str, list[float]] = {}
    for one in metrics:
        for name, values in one.items():
            found.setdefault(name, []).extend(values)
    return found


def averages(metrics: Metrics) -> dict[str, float]:
    """Mean by name, for the step's log line."""
    return {name: fmean(values) for name, values in metrics.items()}
