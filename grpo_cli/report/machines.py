"""The machine, the versions and the seed of a run as a page shows them.

    machine_rows(run)       # [("device", "Apple M3 Max"), ("memory", "64.0 GB"), …, ("seed", "42")]

A run that was resumed on another machine, or with other versions, has the values of each start.
"""

from typing import Any

from grpo_cli.foreign_text import quoted
from grpo_cli.report.marks import label
from grpo_cli.report.read import RunRecord

MOST_STARTS = 20
MOST_PACKAGES = 20


def machine_rows(run: RunRecord) -> list[tuple[str, str]]:
    """(name, value) of the machine; only the seed if the run did not record it."""
    starts = [values_of(start) for start in run.starts[-MOST_STARTS:]]
    names = dict.fromkeys(name for values in starts for name in values)
    rows = [
        (label(name), " → ".join(changes([values.get(name, "–") for values in starts]))) for name in names
    ]
    seed = run.settings.get("seed")
    return [*rows, *([("seed", label(str(seed)))] if seed is not None else [])]


def values_of(start: Any) -> dict[str, str]:
    """The values of one start as texts."""
    found = {
        "device": start.device + (f", {start.ranks} ranks" if start.ranks > 1 else ""),
        "memory": f"{start.memory_gb:.1f} GB" if start.memory_gb else "",
        "system": start.system,
        "Python": start.python,
        **dict([*start.versions.items()][:MOST_PACKAGES]),
    }
    return {name: label(value) for name, value in found.items() if value}


def changes(values: list[str]) -> list[str]:
    """The values without repetitions of the one before."""
    return [value for place, value in enumerate(values) if place == 0 or value != values[place - 1]]


def install_command(run: RunRecord) -> str:
    """The command that installs the versions of the last start; empty if they were not recorded."""
    versions = run.starts[-1].versions if run.starts else {}
    words = [
        quoted(f"{name}=={version}")
        for name, version in [*versions.items()][:MOST_PACKAGES]
        if is_public(name, version)
    ]
    return f"uv pip install {' '.join(words)}" if words else ""


def is_public(name: str, version: str) -> bool:
    """True for a package of a registry; grpo itself is installed from its sources."""
    return name != "grpo-cli" and version[:1].isdigit()
