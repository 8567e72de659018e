"""The grammar of an entry of `reward_functions`, and that nobody else has one."""

from pathlib import Path

import pytest

from grpo_cli.rewards.spec import RewardSpec

ROOT = Path(__file__).parents[2] / "grpo_cli"


@pytest.mark.parametrize(
    ("text", "file", "name"),
    [
        ("correctness", "", "correctness"),
        ("correctness_reward_func", "", "correctness"),
        ("mine.py:short", "mine.py", "short"),
        ("mine.py:short_reward_func", "mine.py", "short_reward_func"),
        ("a folder/mine.py:short", "a folder/mine.py", "short"),
        ("C:/mine.py:short", "C:/mine.py", "short"),
        ("a:b.py", "a:b.py", ""),
        ("mine.pyc:short", "mine.pyc", "short"),
        ("link:short", "link", "short"),
        ("mine.py", "mine.py", ""),
        ("mine.py:", "mine.py", ""),
        (":short", "", ":short"),
        ("", "", ""),
    ],
)
def test_an_entry_is_a_file_with_a_function_or_a_name(text: str, file: str, name: str) -> None:
    spec = RewardSpec.parse(text)
    assert (spec.file, spec.name, spec.is_file) == (file, name, bool(file))


def test_the_file_is_found_from_home() -> None:
    assert RewardSpec.parse("~/mine.py:short").path == Path.home() / "mine.py"


def test_nobody_else_takes_entries_apart() -> None:
    others = [path for path in ROOT.rglob("*.py") if path.name != "spec.py"]
    readers = [path for path in others if "reward_functions" in path.read_text(encoding="utf-8")]
    assert readers
    for path in readers:
        source = path.read_text(encoding="utf-8")
        assert not any(word in source for word in ('rpartition(":")', '".py:"', 'endswith(".py")')), path
