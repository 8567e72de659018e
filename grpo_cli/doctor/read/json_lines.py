"""Files with one JSON object per line, such as logs. Lines that are cut off or damaged are left out."""

from pathlib import Path
from typing import Any

from grpo_cli.untrusted_json import DamagedFile, parse_object

MOST_BYTES = 256_000_000  # read from a log: more than 300,000 steps


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one per line; other lines are left out."""
    return [line for text in texts(path) if (line := json_object(text)) is not None]


def texts(path: Path) -> list[str]:
    """A file's non-blank lines; empty if it cannot be read.

    Only line feeds end a line: completions contain other line separators. Reads at most MOST_BYTES.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return []
    return [text for text in content.split("\n") if text.strip()]


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object in a text; None if the text is not one."""
    try:
        return parse_object(text)
    except DamagedFile:  # cut off
        return None
