"""README's sections that are made of the program: the configuration keys, and the guide's chapters.

python -m grpo_cli.doctor.readme README.md      # writes each between its two marks
"""

import sys
from pathlib import Path

from grpo_cli.config.readme import configuration_keys
from grpo_cli.doctor.chapters import Chapter, chapters
from grpo_cli.files import write_file


def troubleshooting() -> str:
    """The table: what is met, what it is, and the name that `--explain` takes."""
    rows = [row(chapter) for chapter in chapters().values() if chapter.symptoms]
    return "\n".join(["| you see | it is | `grpo doctor --explain` |", "|---|---|---|", *rows])


SECTIONS = {"configuration keys": configuration_keys, "troubleshooting": troubleshooting}


def row(chapter: Chapter) -> str:
    """A chapter as a line of the table."""
    seen = "<br>".join(f"`{cell(symptom)}`" for symptom in chapter.symptoms)
    return f"| {seen} | {cell(chapter.title)} | `{chapter.name}` |"


def cell(text: str) -> str:
    """A text that stays within its cell."""
    return text.replace("\n", " ").replace("|", "\\|").replace("`", "'")


def refreshed(readme: str) -> str:
    """A README's text with its sections as they are now. Raises ValueError where marks are missing."""
    for name, section in SECTIONS.items():
        readme = with_section(readme, name, section())
    return readme


def with_section(readme: str, name: str, section: str) -> str:
    """A README's text with `section` between the marks `name: begin` and `name: end`."""
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = readme.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the README lacks {first} or {last}")
    return f"{before}{first}\n{section}\n{last}{after}"


def main(path: Path) -> None:
    """Bring a README up to date."""
    write_file(path, refreshed(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
