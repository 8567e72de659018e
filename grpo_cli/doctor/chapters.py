"""The guide: a Markdown file in guide/ for every trouble and question; `grpo doctor --explain NAME` shows it.

    chapters()["wired-limit"].cure

Errors carry the name of their chapter (`GrpoError.trouble`), checks have it as their own. A file's head has
its name, subject, title and symptoms, and `common: true` where README's table shows it; its sections are
`## Why`, `## What to do` and, where there is more to know, `## How it works`. To add a chapter, add a file.
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
# The order of the guide; within a subject chapters are in the order of their names.
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
    """One trouble or question, explained. Texts are plain; commands and keys stand in backticks."""

    name: str
    subject: str
    title: str  # the trouble in a line
    common: bool = False  # one of the commonest, which the README shows
    symptoms: tuple[str, ...] = ()  # texts exactly as they are met, so that a search finds them
    why: str  # what it is, what it comes of and why it matters
    cure: str  # what to do, with commands; may have several paragraphs
    how: str = ""  # how the thing works, for those who want all of it


@cache
def chapters() -> dict[str, Chapter]:
    """Every chapter by its name, in the guide's order."""
    found = [chapter_of(path.read_text(encoding="utf-8")) for path in files()]
    found.sort(key=lambda chapter: SUBJECTS.index(chapter.subject))
    return {chapter.name: chapter for chapter in found}


def files() -> list[Path]:
    """The chapters' files, by name."""
    return sorted(path for path in GUIDE.glob("*.md") if path != INDEX)


def chapter_of(text: str) -> Chapter:
    """A file's chapter. Raises ValueError for a file that is none."""
    match = FILE.fullmatch(text)
    if match is None:
        raise ValueError(f"no chapter of the guide: {text[:60]!r}")
    head = yaml.load(match["head"], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    symptoms = tuple(head.pop("symptoms", ()))
    why, cure, how = (unwrapped(match[section] or "") for section in ("why", "cure", "how"))
    return Chapter(**head, symptoms=symptoms, why=why, cure=cure, how=how)


def unwrapped(markdown: str) -> str:
    """A section's text, each paragraph and each item in one line: a terminal breaks them itself.

    The lines of a block between ``` stay as they are, indented.
    """
    parts = enumerate(BLOCK.split(markdown.strip() + "\n"))  # prose and blocks by turns
    texts = [textwrap.indent(part.rstrip(), "    ") if place % 2 else _prose(part) for place, part in parts]
    return "\n\n".join(text for text in texts if text)


def _prose(markdown: str) -> str:
    return "\n\n".join("\n".join(_lines(paragraph)) for paragraph in markdown.strip().split("\n\n"))


def _lines(paragraph: str) -> Iterator[str]:
    for item in re.split(r"^- ", paragraph, flags=re.MULTILINE):
        if item:
            yield " ".join(line.strip() for line in item.splitlines())


def nearest(name: str, names: "list[str]") -> list[str]:
    """Names that a mistyped one may have been meant to be, at most three."""
    return difflib.get_close_matches(name, names, n=3, cutoff=0.5)
