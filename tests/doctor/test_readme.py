"""The documents that are made of the program are as the program is now."""

import re
from pathlib import Path

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.doctor.chapters import Chapter, chapters
from grpo_cli.doctor.readme import MARKS, ROOT, cell, documents, main, row

README = (ROOT / "README.md").read_text(encoding="utf-8")
KEYS = (ROOT / "configs/KEYS.md").read_text(encoding="utf-8")
INDEX = (ROOT / "grpo_cli/doctor/guide/README.md").read_text(encoding="utf-8")
TEXTS = {"README.md": README, "configs/KEYS.md": KEYS, "grpo_cli/doctor/guide/README.md": INDEX}
LINK = re.compile(r"\]\(([^):#]+)\)")


def test_the_documents_are_fresh() -> None:
    now = {path.as_posix(): text for path, text in documents(README).items()}
    assert now == TEXTS, "run `uv run python -m grpo_cli.doctor.readme`"


def test_the_readme_is_for_a_first_reader() -> None:
    assert len(README.splitlines()) <= 250


@pytest.mark.parametrize("key", Config.model_fields)
def test_every_key_is_in_the_keys_once(key: str) -> None:
    assert KEYS.count(f"\n| `{key}` | ") == 1


@pytest.mark.parametrize("name", chapters())
def test_every_chapter_is_in_the_index_once(name: str) -> None:
    assert INDEX.count(f"\n| [{name}]({name}.md) | ") == 1


def test_the_readme_has_the_eight_commonest_troubles() -> None:
    table = README[README.index(MARKS[0]) : README.index(MARKS[1])]
    common = [chapter.name for chapter in chapters().values() if chapter.common]
    assert re.findall(r"^\| \[(.+?)\]", table, re.MULTILINE) == common
    assert len(common) == 8


@pytest.mark.parametrize("path", TEXTS)
def test_links_lead_somewhere(path: str) -> None:
    links = LINK.findall(TEXTS[path])
    assert [link for link in links if not (ROOT / path).parent.joinpath(link).exists()] == []


def test_a_chapter_as_a_line_of_a_table() -> None:
    chapter = Chapter(name="a", subject="hub", title="It | fails", why="", cure="")
    assert row(chapter, "[a](a.md)", ("x `y`", "z")) == "| [a](a.md) | It \\| fails | `x 'y'`<br>`z` |"
    assert row(chapter, "[a](a.md)", ()) == "| [a](a.md) | It \\| fails |  |"
    assert cell("two\nlines") == "two lines"


@pytest.mark.parametrize(
    ("path", "now", "before"),
    [
        ("README.md", "| [unknown-key](", "| [known-key]("),
        ("configs/KEYS.md", "| `adam_beta2` | `0.999` |", "| `adam_beta2` | `0.99` |"),
        ("configs/KEYS.md", "| `lora_layers` |", "| `layers` |"),
        ("grpo_cli/doctor/guide/README.md", "| [cannot-save](", "| [can-save]("),
    ],
)
def test_stale_documents_are_brought_up_to_date(tmp_path: Path, path: str, now: str, before: str) -> None:
    assert TEXTS[path].count(now) == 1
    for name, text in TEXTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace(now, before), encoding="utf-8")
    main(tmp_path)
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in TEXTS} == TEXTS


@pytest.mark.parametrize("mark", MARKS)
def test_a_readme_without_marks_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="lacks <!--"):
        documents(README.replace(mark, ""))
