"""Findings of checks as data: the terminal, `--json` and the bug report show the same.

    yield ok("Python 3.12.3", version="3.12.3")
    yield warning("54 of 60 completions are cut off", "let them end", "max_new_tokens = 128", share=0.9)

A check says what it saw and what cures it. Its name, its subject and why it matters are filled in by
`run.py`, from the table of checks and the guide's chapter of that name.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a check found. `skipped` says what kept a check from looking."""

    severity: Severity
    seen: str  # what was seen, with its numbers, in a line
    cure: str = ""  # what to do about it, in words
    commands: tuple[str, ...] = ()  # lines to type or to write into the configuration
    numbers: dict[str, Any] = field(default_factory=dict)  # what was measured, for programs
    name: str = ""  # the check's, and the chapter's that explains it
    subject: str = ""
    why: str = ""
    title: str = ""  # the name that is shown: of good news where the check is called after a trouble

    @property
    def is_problem(self) -> bool:
        """It is not well: ! or ✗."""
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
    """A value that JSON can hold: a NaN or an infinity becomes null, within lists and tables too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def ok(seen: str, **numbers: Any) -> Finding:
    """All is as it should be."""
    return Finding(severity="ok", seen=seen, numbers=numbers)


def warning(seen: str, cure: str, *commands: str, **numbers: Any) -> Finding:
    """Something that will cost time, memory or results, though a run is possible."""
    return Finding(severity="warning", seen=seen, cure=cure, commands=commands, numbers=numbers)


def error(seen: str, cure: str, *commands: str, **numbers: Any) -> Finding:
    """Something that a run fails of, or that makes its result worthless."""
    return Finding(severity="error", seen=seen, cure=cure, commands=commands, numbers=numbers)


def skipped(reason: str, **numbers: Any) -> Finding:
    """The check could not look, for a reason that is no trouble of its own."""
    return Finding(severity="skipped", seen=reason, numbers=numbers)


def gigabytes(size: float) -> str:
    """Bytes as `9.1 GB`, fewer than one of them as `350 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
