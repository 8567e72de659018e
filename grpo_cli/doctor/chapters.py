"""The guide: one Markdown file in guide/ per trouble or question, shown by `grpo doctor --explain NAME`.

    chapters()["wired-limit"].cure

Errors carry the name of their chapter (`GrpoError.trouble`); a check and its chapter have the same name. A
file's head has its name, subject, title and symptoms, and `common: true` if README's table shows it. Its
sections are `## Why`, `## What to do` and, optionally, `## How it works`. To add a chapter, add a file.
"""

import difflib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

GUIDE = Path(__file__).parent / "guide"
INDEX = GUIDE / "README.md"  # generated; the only file there that is not a chapter
# The order of the guide; within a subject chapters are sorted by name.
SUBJECTS = (
    *("configuration", "environment", "memory", "speed", "disk", "hub", "models", "saving", "training"),
    *("machines", "errors", "questions"),
)
FILE = re.compile(
    r"---\n(?P<head>.+?)---\n+## Why\n+(?P<why>.+?)\n+## What to do\n+(?P<cure>.+?)"
    r"(?:\n+## How it works\n+(?P<how>.+))?",
    re.DOTALL,
)
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """The explanation of one trouble or question. Plain text with commands and keys in backticks."""

    name: str
    subject: str
    title: str  # the trouble in a line
    common: bool = False  # shown in README's table of common troubles
    symptoms: tuple[str, ...] = ()  # messages exactly as they appear, so that a search finds them
    why: str  # the trouble, its cause and its consequences
    cure: str  # the remedy, with commands; may have several paragraphs
    how: str = ""  # the mechanism in detail


@cache
def chapters() -> dict[str, Chapter]:
    """All chapters by name, in the guide's order."""
    found = [chapter_of(path.read_text(encoding="utf-8")) for path in files()]
    found.sort(key=lambda chapter: SUBJECTS.index(chapter.subject))
    return {chapter.name: chapter for chapter in found}


def files() -> list[Path]:
    """The chapters' files, sorted by name."""
    return sorted(path for path in GUIDE.glob("*.md") if path != INDEX)


def chapter_of(text: str) -> Chapter:
    """The chapter in a file's text. Raises ValueError if the text is not a chapter."""
    match = FILE.fullmatch(text)
    if match is None:
        raise ValueError(f"no chapter of the guide: {text[:60]!r}")
    head = yaml.load(match["head"], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    symptoms = tuple(head.pop("symptoms", ()))
    why, cure, how = (unwrapped(match[section] or "") for section in ("why", "cure", "how"))
    return Chapter(**head, symptoms=symptoms, why=why, cure=cure, how=how)


def unwrapped(markdown: str) -> str:
    """A section's text with each paragraph and list item on one line, for the terminal to wrap.

    Lines of a block between ``` are kept and indented.
    """
    parts = enumerate(BLOCK.split(markdown.strip() + "\n"))  # prose and blocks alternate
    texts = [textwrap.indent(part.rstrip(), "    ") if place % 2 else _prose(part) for place, part in parts]
    return "\n\n".join(text for text in texts if text)


def _prose(markdown: str) -> str:
    return "\n\n".join("\n".join(_lines(paragraph)) for paragraph in markdown.strip().split("\n\n"))


def _lines(paragraph: str) -> Iterator[str]:
    if paragraph.startswith("|"):  # a table: one line per row, without the rule below its head
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in paragraph.splitlines()]
        yield from (" · ".join(cells) for cells in rows if set("".join(cells)) != {"-"})
        return
    for item in re.split(r"^- ", paragraph, flags=re.MULTILINE):
        if item:
            yield " ".join(line.strip() for line in item.splitlines())


def nearest(name: str, names: "list[str]") -> list[str]:
    """The names most similar to a mistyped one, at most three."""
    return difflib.get_close_matches(name, names, n=3, cutoff=0.5)
