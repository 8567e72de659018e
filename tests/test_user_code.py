"""The loader of user files: one for rewards, tools and environments, each with words of its own."""

from pathlib import Path

import pytest

from grpo_cli.errors import Interrupted, RewardError, ToolError
from grpo_cli.user_code import ENVIRONMENT, REWARD, TOOL, Kind, function_in, import_file

FILE = """
class Wordle:
    pass


def lookup():
    return 1


limit = 3
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


@pytest.mark.parametrize(("kind", "name"), [(REWARD, "lookup"), (TOOL, "lookup"), (ENVIRONMENT, "Wordle")])
def test_code_of_each_kind_is_loaded(path: Path, kind: Kind, name: str) -> None:
    module = import_file(path, "mine.py", kind)
    assert function_in(module, name, "mine.py", kind) is getattr(module, name)


@pytest.mark.parametrize(
    ("kind", "name", "message", "hint"),
    [
        (
            ENVIRONMENT,
            "Wordl",
            "Environment class not found: Wordl in mine.py",
            "did you mean `Wordle`? classes in mine.py: Wordle",
        ),
        (
            ENVIRONMENT,
            "",
            "Environment class not named: mine.py",
            "write `mine.py:Wordle`; classes in mine.py: Wordle",
        ),
        (
            ENVIRONMENT,
            "lookup",
            "Environment class is not a class: lookup in mine.py is of type function",
            "classes in mine.py: Wordle",
        ),
        (
            TOOL,
            "limit",
            "Tool function is not a function: limit in mine.py is of type int",
            "functions in mine.py: lookup",
        ),
        (
            REWARD,
            "lookups",
            "Reward function not found: lookups in mine.py",
            "did you mean `lookup`? functions in mine.py: lookup",
        ),
    ],
)
def test_the_words_are_those_of_the_kind(path: Path, kind: Kind, name: str, message: str, hint: str) -> None:
    with pytest.raises(kind.error) as caught:
        function_in(import_file(path, "mine.py", kind), name, "mine.py", kind)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("kind", "error"), [(REWARD, RewardError), (TOOL, ToolError), (ENVIRONMENT, ToolError)]
)
def test_a_file_that_fails_names_its_line(tmp_path: Path, kind: Kind, error: type[Exception]) -> None:
    path = tmp_path / "mine.py"
    path.write_text("x = 1\nx / 0\n")
    with pytest.raises(error, match=f"{kind.word} file failed: mine.py, line 2: ZeroDivisionError"):
        import_file(path, "mine.py", kind)
    with pytest.raises(error, match=f"{kind.word} file not found: gone.py"):
        import_file(tmp_path / "gone.py", "gone.py", kind)


def test_an_interruption_of_ours_passes(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from grpo_cli.errors import Interrupted\nraise Interrupted\n")
    with pytest.raises(Interrupted):
        import_file(path, "mine.py", TOOL)
