"""Extra output of a reward during one call: TRL's `log_metric` and `log_extra`.

    notes = Notes(count=2)
    notes.log_metric("parsed", 0.5)              # in the step's line of training_log.jsonl
    notes.log_extra("found", ["18", None])       # in the completions' lines of completions.jsonl

Names and values come from a user's code, so both are bounded, and are kept as plain JSON data. A metric has
its own name in the log, as in TRL; one that the log itself uses gets `logged/` in front.
"""

import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from grpo_cli.foreign_text import one_line, well_formed
from grpo_cli.words import plural

Metrics = Mapping[str, Sequence[float]]  # all values logged under each name

LOGGED = "logged/"  # before a metric's name that the log itself uses
NAN_FRACTION = "nan_fraction/"  # before the name of a reward: share of completions for which it returned NaN
# Beginnings of the log's own names: components of the reward, evaluations, environments, and these two.
OWN_BEGINNINGS = ("rewards/", "eval_", "tools/", NAN_FRACTION, LOGGED)
MOST_NAMES = 100  # per call; more is a name made of data
LONGEST_NAME = 100  # characters
LONGEST_VALUE = 20_000  # characters of an extra as JSON; longer ones are cut, not refused


@dataclass
class Notes:
    """Notes of one reward call on `count` completions, as plain data."""

    count: int
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, list[Any]] = field(default_factory=dict)
    is_nan: list[bool] = field(default_factory=list)  # one per completion: the reward returned NaN

    def log_metric(self, name: str, value: float) -> None:
        """Record a number; NaN is left out, as by TRL.

        Raises ValueError or TypeError at the reward's own line for anything else, and for too many names.
        """
        number = float(value)
        if math.isinf(number):
            raise ValueError(f"log_metric({name!r}, {value!r}): the value must be a finite number")
        name = name_of(name, self.metrics, "log_metric")
        values = self.metrics.setdefault(LOGGED + name if name.startswith(OWN_BEGINNINGS) else name, [])
        values += [] if math.isnan(number) else [number]

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Record one value per completion as JSON; values that JSON cannot represent become text.

        Raises ValueError at the reward's own line for another number of values, and for too many columns.
        """
        found = list(values)
        if len(found) != self.count:
            raise ValueError(
                f"log_extra({column!r}, …): {plural(len(found), 'value')} for "
                f"{plural(self.count, 'completion')}"
            )
        self.extras[name_of(column, self.extras, "log_extra")] = [as_plain(value) for value in found]


def name_of(given: str, known: Mapping[str, Any], called: str) -> str:
    """A name as one short line of text. Raises ValueError for an empty one and for too many names."""
    name = one_line(str(given))[:LONGEST_NAME]
    if not name:
        raise ValueError(f"{called}({given!r}, …): the name is empty")
    if name not in known and len(known) >= MOST_NAMES:
        raise ValueError(f"{called}({name!r}, …): a reward can log {MOST_NAMES} names in one call")
    return name


def as_plain(value: Any) -> Any:
    """The value as plain JSON data: NaN and infinity become None, and a long value is cut."""
    text = well_formed(json.dumps(value, ensure_ascii=False, default=str))
    if len(text) <= LONGEST_VALUE:
        return json.loads(text, parse_constant=lambda _: None)
    return f"{(well_formed(value) if isinstance(value, str) else text)[:LONGEST_VALUE]}…"


def together(metrics: Iterable[Metrics]) -> dict[str, list[float]]:
    """All values of each name, merged over calls, groups, batches or ranks."""
    found: dict[str, list[float]] = {}
    for one in metrics:
        for name, values in one.items():
            found.setdefault(name, []).extend(values)
    return found


def averages(metrics: Metrics, taken: Container[str]) -> dict[str, float]:
    """Mean by name, for the step's log line, without names that have no values, or only rewards without NaN.

    A name in `taken` gets `logged/` in front.
    """
    means = {name: fmean(values) for name, values in metrics.items() if values}
    return {
        f"{LOGGED}{name}" if name in taken else name: mean
        for name, mean in means.items()
        if mean or not name.startswith(NAN_FRACTION)
    }
