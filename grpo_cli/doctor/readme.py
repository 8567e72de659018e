"""Documents generated from the program, and README's table of the most common troubles.

    python -m grpo_cli.doctor.readme      # writes configs/KEYS.md, doctor/guide/README.md and README.md

`documents` returns their current texts; a test compares them with the files.
"""

from itertools import groupby
from pathlib import Path

from grpo_cli.config.readme import keys_document
from grpo_cli.doctor.chapters import GUIDE, INDEX, Chapter, chapters
from grpo_cli.files import write_file
from grpo_cli.trackers.names import names_table

ROOT = Path(__file__).parents[2]
COMMAND = "uv run python -m grpo_cli.doctor.readme"
MARKS = "<!-- commonest troubles: begin -->", "<!-- commonest troubles: end -->"
INDEX_HEAD = f"""\
# The guide

Every trouble that `grpo` knows, and how its parts work. `grpo doctor --explain NAME` prints a chapter; errors
and findings of the doctor name theirs. Generated from the chapters by `{COMMAND}`.
"""


def documents(readme: str) -> dict[Path, str]:
    """Texts of all documents that are generated, fully or in part, by path below the repository's root."""
    return {
        Path("README.md"): with_table(readme, common_troubles()),
        Path("configs/KEYS.md"): f"{keys_document(COMMAND)}\n{names_table()}",
        INDEX.relative_to(ROOT): index(),
    }


def index() -> str:
    """The guide's index: its chapters by subject, with their symptoms."""
    parts = [INDEX_HEAD]
    for subject, group in groupby(chapters().values(), key=lambda chapter: chapter.subject):
        rows = [row(chapter, f"[{chapter.name}]({chapter.name}.md)", chapter.symptoms) for chapter in group]
        table = ["| chapter | it is | you see |", "|---|---|---|", *rows]
        parts.append("\n".join([f"## {subject.capitalize()}", "", *table, ""]))
    return "\n".join(parts)


def common_troubles() -> str:
    """README's table: the chapters marked as common."""
    folder = GUIDE.relative_to(ROOT).as_posix()
    rows = [
        row(chapter, f"[{chapter.name}]({folder}/{chapter.name}.md)", chapter.symptoms[:2])
        for chapter in chapters().values()
        if chapter.common
    ]
    return "\n".join(["| `grpo doctor --explain` | it is | you see |", "|---|---|---|", *rows])


def row(chapter: Chapter, link: str, symptoms: tuple[str, ...]) -> str:
    """A chapter as a row of a Markdown table."""
    seen = "<br>".join(f"`{cell(symptom)}`" for symptom in symptoms)
    return f"| {link} | {cell(chapter.title)} | {seen} |"


def cell(text: str) -> str:
    """A text escaped for a cell of a Markdown table."""
    return text.replace("\n", " ").replace("|", "\\|").replace("`", "'")


def with_table(readme: str, table: str) -> str:
    """A README's text with `table` between its two marks. Raises ValueError if one is missing."""
    first, last = MARKS
    before, begin, rest = readme.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the README lacks {first} or {last}")
    return f"{before}{first}\n{table}\n{last}{after}"


def main(root: Path = ROOT) -> None:
    """Regenerate the documents below `root`."""
    for path, text in documents((root / "README.md").read_text(encoding="utf-8")).items():
        write_file(root / path, text)


if __name__ == "__main__":
    main()
