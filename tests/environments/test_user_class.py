"""A user's environment class: what is one, what its tools are, and why one is refused."""

import textwrap
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.environments.user import UserEnvironment
from grpo_cli.environments.user_class import check_class, is_environment_class, load_class, make, own_tools
from grpo_cli.errors import ToolError
from grpo_cli.rewards.spec import RewardSpec
from tests.support.user_environments import Talk, Wordle


def test_inherited_static_and_class_methods_are_tools_in_the_order_of_their_definition() -> None:
    class More(Wordle):
        @staticmethod
        def alphabet() -> str:
            """All letters."""
            return "abc"

        @classmethod
        def rules(cls) -> str:
            """The rules."""
            return str(cls.letters)

        def guess(self, word: str) -> str:  # noqa: ARG002
            """Guess again."""
            return "no"

        class Inner:
            """An inner class is none."""

    assert own_tools(More) == ["guess", "hint", "alphabet", "rules"]
    assert [tool() for tool in UserEnvironment(More()).tool_functions()[2:]] == ["abc", "5"]
    check_class(More, RewardSpec("my.py", "More"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(Wordle, True), (Talk, True), (Wordle(), False), (int, False), (type("No", (), {}), False)],
)
def test_what_is_an_environment(value: Any, expected: bool) -> None:
    assert is_environment_class(value) is expected


FILE = """
from abc import ABC, abstractmethod
from grpo_cli.environments.protocol import Environment

class Good:
    def reset(self): ...
    def respond(self, text): return None

class Ours(Environment):
    pass

class WithTokenizer:
    def __init__(self, tokenizer, lives=3): self.tokenizer = tokenizer
    def reset(self): ...
    def respond(self, text): return None

class Needy:
    def __init__(self, path): ...
    def reset(self): ...
    def respond(self, text): return None

class NoReset:
    def respond(self, text): return None

class Nothing:
    def reset(self): ...

class Mute:
    def reset(self): ...
    def look(self, name: str) -> str: return name

class Abstract(ABC):
    def reset(self): ...
    @abstractmethod
    def respond(self, text): ...

class Untyped:
    def reset(self): ...
    def look(self, name) -> str:
        "Look."

class ByPlace:
    def reset(self, word, /): ...
    def respond(self, text): return None

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine_of_environments.py"
    path.write_text(textwrap.dedent(FILE))
    return str(path)


def load(file: str, name: str) -> type:
    return load_class(RewardSpec(file, name))


def test_a_class_is_loaded_and_every_rollout_makes_its_own(file: str) -> None:
    good = load(file, "Good")
    assert make(good, "t") is not make(good, "t")
    assert make(load(file, "WithTokenizer"), "t").tokenizer == "t"
    assert load(file, "Ours").__name__ == "Ours"


LISTED = "environments in {file}: Good, Ours, WithTokenizer, Needy, Mute, Abstract, Untyped, ByPlace"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("", "Environment class not named: {file}", "write `{file}:Good`; {listed}"),
        ("Goof", "Environment not found: Goof in {file}", "did you mean `Good`? {listed}"),
        ("number", "Environment is not a class: number in {file} is of type int", "{listed}"),
        (
            "Needy",
            "Environment needs arguments: Needy in {file} takes path",
            "every rollout makes its own with no arguments: give them defaults, or read them in `reset`",
        ),
        (
            "NoReset",
            "Environment lacks the method `reset`: NoReset in {file}",
            "it needs `reset(self, **columns)`, and `respond(self, text)` or public methods as tools",
        ),
        (
            "Nothing",
            "Environment lacks `respond` or a tool: Nothing in {file}",
            "it needs `reset(self, **columns)`, and `respond(self, text)` or public methods as tools",
        ),
        (
            "Abstract",
            "Environment is abstract: Abstract in {file} lacks respond",
            "define these methods",
        ),
        (
            "ByPlace",
            "Environment takes `word` by position only: reset of ByPlace in {file}",
            "columns are given by keyword: leave out the `/`",
        ),
        (
            "Mute",
            "Tool without a docstring: look of Mute in {file}",
            "describe it to the model, or hide it from the model by the name `_look`",
        ),
        (
            "Untyped",
            "Tool without a type hint for `name`: look of Untyped in {file}",
            "describe it to the model, or hide it from the model by the name `_look`",
        ),
    ],
)  # fmt: skip
def test_a_class_that_cannot_be_used_is_refused(file: str, name: str, message: str, hint: str) -> None:
    with pytest.raises(ToolError) as caught:
        load(file, name)
    assert caught.value.message == message.format(file=file)
    assert caught.value.hint == hint.format(file=file, listed=LISTED.format(file=file))
