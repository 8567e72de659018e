"""The guide: a chapter for every trouble, by name. `grpo doctor --explain NAME` shows one.

    chapter("wired-limit").cure

Errors carry the name of their chapter (`GrpoError.trouble`), checks have it as their own. README's
troubleshooting is made of the same chapters (readme.py). To add one, write it in its subject's file in
chapters/.
"""

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Chapter:
    """One trouble, explained. Texts are plain; commands and keys stand in backticks."""

    name: str
    title: str  # the trouble in a line
    why: str  # what it is, what it comes of and why it matters
    cure: str  # what to do, with commands; may have several paragraphs
    symptoms: tuple[str, ...] = ()  # texts exactly as they are met, so that a search finds them


def chapters() -> dict[str, Chapter]:
    """Every chapter by its name, in the guide's order."""
    from grpo_cli.doctor.chapters import (
        configuration,
        disk,
        environment,
        errors,
        hub,
        machines,
        memory,
        models,
        questions,
        saving,
        speed,
        training,
    )

    parts = (
        configuration,
        environment,
        memory,
        speed,
        disk,
        hub,
        models,
        saving,
        training,
        machines,
        errors,
        questions,
    )
    return {chapter.name: chapter for part in parts for chapter in part.CHAPTERS}


def nearest(name: str, names: "list[str]") -> list[str]:
    """Names that a mistyped one may have been meant to be, at most three."""
    return difflib.get_close_matches(name, names, n=3, cutoff=0.5)
