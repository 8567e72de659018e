"""Findings of checks as data: the terminal, `--json` and the bug report show the same ones.

    yield ok("Python 3.12.3", version="3.12.3")
    yield warning("54 of 60 completions are cut off", "let them end", "max_new_tokens = 128", share=0.9)

A check fills in what it saw and the cure. run.py adds the name, the subject and the reason that it matters,
from the table of checks and the guide's chapter of the same name.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One result of a check. Severity `skipped`: the check could not look; `seen` has the reason."""

    severity: Severity
    seen: str  # the observation with its numbers, usually in one line
    cure: str = ""  # the remedy in words
    commands: tuple[str, ...] = ()  # commands to run, or lines for the configuration
    numbers: dict[str, Any] = field(default_factory=dict)  # measurements, for programs
    name: str = ""  # of the check, and of the chapter that explains it
    subject: str = ""
    why: str = ""
    title: str = ""  # the name to show: a positive one for `ok` if the check is named after a trouble

    @property
    def is_problem(self) -> bool:
        """True for a warning (!) or an error (✗)."""
        return self.severity in ("warning", "error")

    def as_row(self) -> dict[str, Any]:
        """The finding for `--json`."""
        return {
            "name": self.name,
            "subject": self.subject,
            "severity": self.severity,
            "seen": self.seen,
            "why": self.why,
            "cure": self.cure,
            "commands": list(self.commands),
            "numbers": {name: plain(value) for name, value in self.numbers.items()},
        }


def plain(value: Any) -> Any:
    """A value for JSON: NaN and infinity become None, in nested lists and dicts too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def ok(seen: str, **numbers: Any) -> Finding:
    """A finding without a problem."""
    return Finding(severity="ok", seen=seen, numbers=numbers)


def warning(seen: str, cure: str, *commands: str, **numbers: Any) -> Finding:
    """A problem that costs time, memory or results but does not prevent a run."""
    return Finding(severity="warning", seen=seen, cure=cure, commands=commands, numbers=numbers)


def error(seen: str, cure: str, *commands: str, **numbers: Any) -> Finding:
    """A problem that makes a run fail or its result worthless."""
    return Finding(severity="error", seen=seen, cure=cure, commands=commands, numbers=numbers)


def skipped(reason: str, **numbers: Any) -> Finding:
    """The check could not look; the reason is not a problem in itself."""
    return Finding(severity="skipped", seen=reason, numbers=numbers)


def gigabytes(size: float) -> str:
    """Bytes as `9.1 GB`, or as `350 MB` below 1 GB (10⁹ bytes)."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
