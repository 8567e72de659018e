"""README's troubleshooting, made of the guide's chapters.

python -m grpo_cli.doctor.readme README.md      # writes it between its two marks
"""

import sys
from pathlib import Path

from grpo_cli.doctor.guide import Chapter, chapters

BEGIN, END = "<!-- troubleshooting: begin -->", "<!-- troubleshooting: end -->"


def troubleshooting() -> str:
    """The table: what is met, what it is, and the name that `--explain` takes."""
    rows = [row(chapter) for chapter in chapters().values() if chapter.symptoms]
    head = ["| you see | it is | `grpo doctor --explain` |", "|---|---|---|"]
    return "\n".join([BEGIN, *head, *rows, END])


def row(chapter: Chapter) -> str:
    """A chapter as a line of the table."""
    seen = "<br>".join(f"`{cell(symptom)}`" for symptom in chapter.symptoms)
    return f"| {seen} | {cell(chapter.title)} | `{chapter.name}` |"


def cell(text: str) -> str:
    """A text that stays within its cell."""
    return text.replace("\n", " ").replace("|", "\\|").replace("`", "'")


def with_troubleshooting(readme: str) -> str:
    """A README's text with the table as it is now. Raises ValueError where the marks are missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README lacks {BEGIN} or {END}")
    return before + troubleshooting() + after


def main(path: Path) -> None:
    """Bring a README up to date."""
    path.write_text(with_troubleshooting(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
