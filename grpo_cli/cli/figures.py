"""Format numbers for people: durations, shares, sizes. Unknown values (None) are left out.

duration(80.4)  1m 20s        percent(0.42)  42.0 %        magnitude(847_872)  848 k
"""

import math
from collections.abc import Mapping
from typing import Any


def duration(seconds: float) -> str:
    """A duration in whole seconds: 8s, 1m 20s, 2h 05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def timing(metrics: Mapping[str, Any], key: str) -> str | None:
    """Time taken by a part of a step: 0.4 s, 12.0 s; None if unknown."""
    return shown(metrics, key, ".1f", " s")


def percent(share: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def magnitude(count: float) -> str:
    """A large count with a letter: 848 k, 1.5 M, 135 M, 7.2 B."""
    for size, letter in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def accuracy(metrics: Mapping[str, Any]) -> str | None:
    """An evaluation's accuracy with its count: 42.0 % (84/200)."""
    share, samples = number(metrics, "eval_accuracy"), number(metrics, "eval_samples")
    if share is None:
        return None
    return percent(share) + (f" ({round(share * samples)}/{samples:.0f})" if samples else "")


def share(metrics: Mapping[str, Any], key: str) -> str | None:
    """The fraction under a key of a log line, in percent; None if unknown."""
    value = number(metrics, key)
    return None if value is None else percent(value)


def number(metrics: Mapping[str, Any], key: str) -> float | None:
    """The finite number under a key of a log line, or None."""
    value = metrics.get(key)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def fields(*pairs: tuple[str, str | None], gap: str = "  ") -> str:
    """`label value` for each pair whose value is known."""
    return gap.join(f"{label} {value}".strip() for label, value in pairs if value is not None)


def shown(metrics: Mapping[str, Any], key: str, form: str, unit: str = "") -> str | None:
    """The number under a key in a format (`.2f`) with its unit, or None."""
    value = number(metrics, key)
    return None if value is None else f"{value:{form}}{unit}"
