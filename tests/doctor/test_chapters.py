"""The guide: a chapter for every check and every error."""

import ast
from pathlib import Path

import pytest

from grpo_cli.doctor.chapters import INDEX, chapter_of, chapters, files, nearest
from grpo_cli.doctor.table import CHECKS

ROOT = Path(__file__).parents[2]
GUIDE = chapters()

# The texts of the client's guide, and the chapter in which a search for each must end.
TEXTS = {
    "Config file not found: configs/custom.toml": "config-not-found",
    "Unknown config key: invalid_parameter": "unknown-key",
    "Failed to coerce value: 'invalid_string' to <class 'float'>": "wrong-type",
    "ModuleNotFoundError: No module named 'mlx_lm'": "mlx-lm",
    "Failed to convert model: torch.load() error": "conversion",
    "Failed to load tiktoken tokenizer: Pickle file corrupted": "tokenizer",
    "M don yourty youon insOifissty youon insM don features T": "garbled-output",
    "RuntimeError: NaN gradient encountered": "nan-gradient",
    "The capital of France is Paris. The capital of France is Paris.": "repetition",
    "OutOfMemoryError: Unable to allocate memory": "memory-needed",
    "Failed to save checkpoint: Permission denied": "cannot-save",
    "Checkpoint not found: outputs/checkpoint-1000": "checkpoint-not-found",
    "reward_mean > 10": "reward-high",
    "grad_norm > 10": "grad-norm-high",
    "iogpu.wired_limit_mb": "wired-limit",
}


def named_troubles() -> set[str]:
    """Every name that an error or a problem of the sources carries as its trouble."""
    found = set()
    for path in (ROOT / "grpo_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trouble":
                found |= {c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)}
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "trouble":
                found |= {node.value.value} if isinstance(node.value, ast.Constant) else set()
    return {name for name in found if isinstance(name, str) and name}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_has_a_chapter_and_says_what_it_looks_at(check) -> None:
    assert check.name in GUIDE
    assert check.summary


@pytest.mark.parametrize("trouble", sorted(named_troubles()))
def test_every_error_leads_to_a_chapter(trouble: str) -> None:
    assert trouble in GUIDE


def test_errors_are_searched_for_their_troubles() -> None:
    assert {"cannot-save", "model-not-found", "configuration", "training-stopped"} <= named_troubles()


def test_a_chapter_is_in_the_file_of_its_name() -> None:
    assert INDEX.is_file()
    assert sorted(path.stem for path in files()) == sorted(GUIDE)
    assert sorted([*files(), INDEX]) == sorted(INDEX.parent.iterdir())
    for path in files():
        assert chapter_of(path.read_text(encoding="utf-8")).name == path.stem
    names = [check.name for check in CHECKS]
    assert len(names) == len(set(names))


def test_sections_are_read_as_a_terminal_shows_them() -> None:
    first = "---\nname: a\nsubject: hub\n"
    head = first + "title: 'It: fails'\nsymptoms:\n  - \"don't\"\n---\n\n"
    chapter = chapter_of(
        f"{head}## Why\n\nOne\ntwo.\n\nThree.\n\n## What to do\n\n- First: `a`,\n  `b`.\n- Second.\n"
    )
    assert (chapter.title, chapter.symptoms) == ("It: fails", ("don't",))
    assert (chapter.why, chapter.cure) == ("One two.\n\nThree.", "First: `a`, `b`.\nSecond.")
    assert (chapter.how, chapter.common) == ("", False)
    with pytest.raises(ValueError, match="no chapter of the guide: '# Anything"):
        chapter_of("# Anything else")


def test_a_third_section_says_how_it_works_with_its_blocks_as_they_are() -> None:
    chapter = chapter_of(
        "---\nname: a\nsubject: hub\ntitle: b\ncommon: true\n---\n\n"
        "## Why\n\nOne.\n\n## What to do\n\nTwo.\n\n## How it works\n\nSo\nit is:\n\n"
        "```toml\na = 1\n\nb = 2      # two\n```\n\n- Three\n  lines.\n- Four.\n"
    )
    assert (chapter.why, chapter.cure, chapter.common) == ("One.", "Two.", True)
    assert chapter.how == "So it is:\n\n    a = 1\n\n    b = 2      # two\n\nThree lines.\nFour."


@pytest.mark.parametrize(("text", "name"), TEXTS.items())
def test_the_guide_s_texts_are_found(text: str, name: str) -> None:
    assert any(text in symptom for symptom in GUIDE[name].symptoms)


@pytest.mark.parametrize("chapter", GUIDE.values(), ids=lambda chapter: chapter.name)
def test_a_chapter_says_why_and_what_to_do(chapter) -> None:
    assert len(chapter.title) < 90
    assert len(chapter.why) > 60
    assert len(chapter.cure) > 20


def test_a_mistyped_name_has_near_ones() -> None:
    assert nearest("wired", list(GUIDE))[0] == "wired-limit"
    assert nearest("xyzzy", list(GUIDE)) == []
