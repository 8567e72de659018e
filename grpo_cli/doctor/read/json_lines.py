"""Files with a JSON object in each line, as logs are: what is cut off or damaged is left out."""

from pathlib import Path
from typing import Any

from grpo_cli.untrusted_json import DamagedFile, parse_object

MOST_BYTES = 256_000_000  # of a log: more than 300,000 steps


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; a line that is none is left out."""
    return [line for text in texts(path) if (line := json_object(text)) is not None]


def texts(path: Path) -> list[str]:
    """A file's lines that are not blank; none where it cannot be read.

    Lines end at a line feed only: completions hold other separators of lines. At most MOST_BYTES are read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return []
    return [text for text in content.split("\n") if text.strip()]


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, or None."""
    try:
        return parse_object(text)
    except DamagedFile:  # cut off
        return None
