"""Users' environments in TRL's shape: what is called with what, and what an error says."""

# ruff: noqa: E501 - one case a line

import asyncio
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.environments.run_tools import run_calls
from grpo_cli.environments.tools import Call, Tool
from grpo_cli.environments.user import UserEnvironment, ask, construct
from grpo_cli.environments.user_class import load_class
from grpo_cli.errors import ToolError
from grpo_cli.foreign_text import guarded_output
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.user_code import TOOL, import_file
from tests.support.user_environments import Talk, Wordle


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


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ToolError) as caught:
        UserEnvironment(Wordle()).reset({"answer": "x", "level": 1})
    assert caught.value.message == (
        "Environment needs the column `word`: Wordle.reset in user_environments.py"
    )
    assert caught.value.hint == (
        "the example has the columns answer, level; add it to the dataset, or give the argument a default; "
        "`grpo env try` takes `--column word=…`"
    )


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
    with pytest.raises(ToolError) as caught:
        environment.reset({})
    assert caught.value.message == (
        "Environment returned ['no', 'text'] of type list: Bad.reset in test_user.py"
    )
    with pytest.raises(ToolError) as caught:
        environment.get_reward()
    assert caught.value.message == ("Environment returned nan of type float: Bad.get_reward in test_user.py")


def test_an_error_names_method_and_line_and_keeps_the_users_traceback() -> None:
    line = Bad.respond.__code__.co_firstlineno + 3
    with pytest.raises(ToolError) as caught:
        UserEnvironment(Bad()).respond(turn("x"))
    assert caught.value.message == (
        "Environment raised ZeroDivisionError: division by zero: Bad.respond in test_user.py "
        f"(test_user.py, line {line})"
    )
    assert "return 1 / 0" in caught.value.trace
    assert "environments/user.py" not in caught.value.trace
    with pytest.raises(ToolError, match="raised SystemExit: 3"):
        UserEnvironment(Bad()).respond(turn("exit"))


# --- hostile values ------------------------------------------------------------------------------------


class Loud(str):
    """A text that fails wherever it is formatted."""

    def __str__(self) -> str:
        raise RuntimeError

    __format__ = __repr__ = __str__  # type: ignore[assignment]


class Wild(Exception):
    """An error without a text."""

    def __str__(self) -> str:
        raise RuntimeError


class Hostile(Talk):
    """Its values and its error cannot be shown."""

    def reset(self, **columns: Any) -> Any:  # noqa: ARG002
        return Loud("Go.")

    def respond(self, text: str) -> Any:
        if text == "raise":
            raise Wild
        return 10**5000 if text == "long" else [Loud("x")]


def test_values_and_errors_that_cannot_be_shown() -> None:
    environment = UserEnvironment(Hostile())
    text = environment.reset({})
    assert text == "Go."
    assert f"{text}" == "Go."
    for said, value in (("long", "a value of type int"), ("list", "a value of type list")):
        with pytest.raises(ToolError) as caught:
            environment.respond(turn(said))
        assert caught.value.message == f"Environment returned {value}: Hostile.respond in test_user.py"
    with pytest.raises(ToolError, match=r"^Environment raised Wild: Hostile\.respond in test_user"):
        environment.respond(turn("raise"))


class NoStart(Talk):
    """Its constructor fails, or exits."""

    failure: BaseException = ValueError("no file")

    def __init__(self) -> None:
        raise self.failure


class Exits(NoStart):
    failure = SystemExit(3)


@pytest.mark.parametrize(
    ("cls", "raised"), [(NoStart, "ValueError: no file: NoStart"), (Exits, "SystemExit: 3: Exits")]
)
def test_a_constructor_that_fails_is_named(cls: type, raised: str) -> None:
    with pytest.raises(ToolError) as caught:
        construct(cls, None)
    line = NoStart.__init__.__code__.co_firstlineno + 1
    assert caught.value.message == (
        f"Environment raised {raised}.__init__ in test_user.py (test_user.py, line {line})"
    )
    assert "raise self.failure" in caught.value.trace


class Chatty:
    """Prints wherever it is called."""

    def __init__(self) -> None:
        print("made")

    def reset(self) -> None:
        print("reset")

    async def respond(self, text: str) -> None:
        await asyncio.sleep(0)
        print(text)

    def look(self) -> None:
        """Look."""
        print("look")

    async def wait(self) -> None:
        """Wait."""
        print("wait")


def test_what_an_environment_prints_never_reaches_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "printing.py").write_text("print('file')\ndef f(): ...\n")
    with guarded_output():
        import_file(tmp_path / "printing.py", "printing.py", TOOL)
        environment = construct(Chatty, None)
        assert isinstance(environment, UserEnvironment)
        environment.reset({})
        environment.respond(turn("answer"))
        tools = [Tool.of(function, "here") for function in environment.tool_functions()]
        for name in ("look", "wait"):
            run_calls(tools, [Call(name=name)], timeout=10.0)
        print("result")
    shown = capsys.readouterr()
    assert shown.out == "result\n"
    assert shown.err.split() == ["file", "made", "reset", "answer", "look", "wait"]


# --- a subclass of Environment in a file of the user's -------------------------------------------------

SUBCLASS = """
from grpo_cli.environments.protocol import Environment, Reply

class Mine(Environment):
    def reset(self, columns):
        return columns["text"]

    def read(self, token_id):
        return [1] if token_id else token_id / 0

    def respond(self, turn):
        return {"reply": Reply.of_user("a"), "none": None}.get(turn, turn)

    def get_reward(self):
        return self.reward
"""


def subclass(tmp_path: Path) -> Any:
    (tmp_path / "own_subclass.py").write_text(SUBCLASS)
    return load_class(RewardSpec.parse(f"{tmp_path}/own_subclass.py:Mine"))()


def test_what_a_subclass_of_ours_returns(tmp_path: Path) -> None:
    mine = subclass(tmp_path)
    assert ask(mine, "reset", {"text": "go"}) == "go"
    assert ask(mine, "read", 3) == [1]
    assert ask(mine, "respond", "reply") == Reply.of_user("a")
    assert ask(mine, "respond", "none") is None
    for value, reward in ((2, 2.0), (None, None), (True, 1.0)):
        mine.reward = value
        assert ask(mine, "get_reward") == reward


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("reset", {}, "Environment raised KeyError: 'text': Mine.reset in own_subclass.py (own_subclass.py, line 6)"),
        ("reset", {"text": 3}, "Environment returned 3 of type int: Mine.reset in own_subclass.py"),
        ("read", 0, "Environment raised ZeroDivisionError: division by zero: Mine.read in own_subclass.py (own_subclass.py, line 9)"),
        ("respond", "a text", "Environment returned 'a text' of type str: Mine.respond in own_subclass.py"),
    ],
)  # fmt: skip
def test_a_subclass_of_ours_fails_with_its_line(
    tmp_path: Path, method: str, value: Any, message: str
) -> None:
    with pytest.raises(ToolError) as caught:
        ask(subclass(tmp_path), method, value)
    assert caught.value.message == message


def test_the_reward_of_a_subclass_must_be_a_number(tmp_path: Path) -> None:
    mine = subclass(tmp_path)
    mine.reward = "1"
    with pytest.raises(ToolError, match=r"Environment returned '1' of type str: Mine\.get_reward"):
        ask(mine, "get_reward")
