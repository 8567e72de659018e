"""Users' environments in TRL's shape: what is called with what, what is a tool, and what an error says."""

import textwrap
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.environments.user import UserEnvironment
from grpo_cli.environments.user_class import check_class, is_environment_class, load_class, make, own_tools
from grpo_cli.errors import EnvironmentFailure
from grpo_cli.rewards.spec import RewardSpec


class Wordle:
    """A game with two tools, in TRL's shape."""

    letters = 5

    def __init__(self, lives: int = 6) -> None:
        self.lives = lives

    def reset(self, word: str, level: int = 1) -> str:
        self.word = word
        return f"{len(word)} letters, level {level}"

    def guess(self, word: str) -> str:
        """Guess a word.

        Args:
            word: the guess
        """
        return "right" if word == self.word else "wrong"

    async def hint(self) -> str:
        """The first letter."""
        return self.word[0]

    def get_reward(self) -> float:
        return 0.5

    def _count(self) -> int:
        return self.lives

    @property
    def left(self) -> int:
        return self.lives


class Talk:
    """A task without tools: two turns."""

    def reset(self, **columns: Any) -> None:
        self.columns = columns

    async def respond(self, text: str) -> str | None:
        return None if text == "bye" else f"{text}?"

    async def get_reward(self) -> float | None:
        return 2


def turn(text: str) -> Turn:
    return Turn(number=0, token_ids=[1], text=text)


def test_reset_gets_the_columns_that_it_names() -> None:
    environment = UserEnvironment(Wordle())
    assert environment.reset({"word": "house", "level": 3, "answer": "x"}) == "5 letters, level 3"
    assert environment.reset({"word": "tree"}) == "4 letters, level 1"


def test_reset_with_keywords_gets_every_column() -> None:
    environment = UserEnvironment(Talk())
    assert environment.reset({"a": 1, "b": None}) is None
    assert environment.instance.columns == {"a": 1, "b": None}


def test_respond_is_a_user_message_or_the_end() -> None:
    environment = UserEnvironment(Talk())
    assert environment.respond(turn("hello")) == Reply.of_user("hello?")
    assert environment.respond(turn("bye")) is None
    assert UserEnvironment(Wordle()).respond(turn("hello")) is None


class Calls(Environment):
    """Stands for the environment of tools: `call` is a call of one that fails."""

    assistant: dict[str, str] | None = None

    def respond(self, turn: Turn) -> Reply | None:
        self.assistant = {"role": "assistant", "content": turn.text}
        if turn.text != "call":
            return None
        self.calls += 1
        self.failures += 1
        return Reply(messages=({"role": "tool", "content": "result"},))


@pytest.mark.parametrize(("user", "answer"), [(Wordle, None), (Talk, Reply.of_user("hello?"))])
def test_a_turn_without_calls_goes_to_respond(user: type, answer: Reply | None) -> None:
    environment = UserEnvironment(user())
    environment.tools = Calls()
    assert environment.respond(turn("call")) == Reply(messages=({"role": "tool", "content": "result"},))
    assert (environment.calls, environment.failures) == (1, 1)
    assert environment.respond(turn("hello")) == answer
    assert environment.assistant == {"role": "assistant", "content": "hello"}
    assert environment.calls == 1


def test_rewards() -> None:
    assert UserEnvironment(Wordle()).get_reward() == 0.5
    assert UserEnvironment(Talk()).get_reward() == 2.0
    assert UserEnvironment(type("Bare", (), {"reset": Talk.reset})()).get_reward() is None


def test_tools_are_the_public_methods_bound_to_the_instance() -> None:
    environment = UserEnvironment(Wordle())
    environment.reset({"word": "house"})
    guess, hint = environment.tool_functions()
    assert (guess.__name__, hint.__name__) == ("guess", "hint")
    assert guess("house") == "right"
    assert own_tools(Talk) == []


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


def test_a_missing_column_is_named() -> None:
    with pytest.raises(EnvironmentFailure) as caught:
        UserEnvironment(Wordle()).reset({"answer": "x", "level": 1})
    assert caught.value.message == ("Environment needs the column `word`: Wordle.reset in test_user.py")
    assert caught.value.hint == "the example has the columns answer, level; give the argument a default"


class Bad(Talk):
    """Every method returns what it must not, or raises."""

    def reset(self, **columns: Any) -> Any:  # noqa: ARG002
        return ["no", "text"]

    def respond(self, text: str) -> Any:
        if text == "exit":
            raise SystemExit(3)
        return 1 / 0

    def get_reward(self) -> Any:
        return float("nan")


def test_wrong_values_are_named() -> None:
    environment = UserEnvironment(Bad())
    with pytest.raises(EnvironmentFailure) as caught:
        environment.reset({})
    assert caught.value.message == (
        "Environment returned ['no', 'text'] of type list: Bad.reset in test_user.py"
    )
    with pytest.raises(EnvironmentFailure) as caught:
        environment.get_reward()
    assert caught.value.message == ("Environment returned nan of type float: Bad.get_reward in test_user.py")


def test_an_error_names_method_and_line_and_keeps_the_users_traceback() -> None:
    line = Bad.respond.__code__.co_firstlineno + 3
    with pytest.raises(EnvironmentFailure) as caught:
        UserEnvironment(Bad()).respond(turn("x"))
    assert caught.value.message == (
        "Environment raised ZeroDivisionError: division by zero: Bad.respond in test_user.py "
        f"(test_user.py, line {line})"
    )
    assert "return 1 / 0" in caught.value.trace
    assert "environments/user.py" not in caught.value.trace
    with pytest.raises(EnvironmentFailure, match="raised SystemExit: 3"):
        UserEnvironment(Bad()).respond(turn("exit"))


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


LISTED = "environments in {file}: Good, Ours, WithTokenizer, Needy, Mute, Abstract, Untyped"


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
    with pytest.raises(EnvironmentFailure) as caught:
        load(file, name)
    assert caught.value.message == message.format(file=file)
    assert caught.value.hint == hint.format(file=file, listed=LISTED.format(file=file))
