"""What a reward says besides its numbers, in one call: TRL's `log_metric` and `log_extra`.

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

Metrics = Mapping[str, Sequence[float]]  # every value that was logged under a name


@dataclass
class Notes:
    """Collected during one call of a reward about `count` completions, as plain data."""

    count: int
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, list[Any]] = field(default_factory=dict)

    def log_metric(self, name: str, value: float) -> None:
        """Remember a number. ValueError or TypeError, in the reward's own line, for anything else."""
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"log_metric({name!r}, {value!r}): the value must be a finite number")
        self.metrics.setdefault(str(name), []).append(number)

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Remember a value for each completion, as JSON has it; what JSON has not, as its text."""
        found = list(values)
        if len(found) != self.count:
            raise ValueError(
                f"log_extra({column!r}, …): {plural(len(found), 'value')} for "
                f"{plural(self.count, 'completion')}"
            )
        self.extras[str(column)] = [as_plain(value) for value in found]


def as_plain(value: Any) -> Any:
    """The value as plain data for a line of JSON. ValueError for NaN and lone surrogates."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    text.encode()
    return json.loads(text)


def together(metrics: Iterable[Metrics]) -> dict[str, list[float]]:
    """All values of each name, of several calls, groups, batches or ranks."""
    found: dict[str, list[float]] = {}
    for one in metrics:
        for name, values in one.items():
            found.setdefault(name, []).extend(values)
    return found


def averages(metrics: Metrics) -> dict[str, float]:
    """Each name's mean: what the step's line says."""
    return {name: fmean(values) for name, values in metrics.items()}
