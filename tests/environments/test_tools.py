"""Tools: loading functions, their schemas, and running calls whose functions misbehave."""

import json
import threading
import time
from pathlib import Path

import pytest

from grpo_cli.environments.run_tools import MOST_CHARACTERS, Observation, run_calls
from grpo_cli.environments.tools import Call, Tool, load_tools
from grpo_cli.errors import Interrupted, ToolError

TOOLS = '''
import asyncio, os, sys, time
from typing import Literal


def divide(a: float, b: float = 1.0) -> float:
    """Divide two numbers.

    Args:
        a: The dividend.
        b: The divisor.
    """
    return a / b


def say(what: Literal["text", "surrogates", "pair", "megabytes", "set", "nan", "nothing", "list", "cycle"]):
    """Return something.

    Args:
        what: The kind of thing.
    """
    cycle = []
    cycle.append(cycle)
    return {
        "text": "a\\x00\\x1b[2Jb <|im_end|>",
        "surrogates": "a\\ud800b\\udc00",
        "pair": "\\ud83d\\ude00",
        "megabytes": "x" * 5_000_000,
        "set": {1, 2},
        "nan": [float("nan")],
        "nothing": None,
        "list": [1, {"é": True}],
        "cycle": cycle,
    }[what]


class Bad(Exception):
    def __str__(self):
        sys.exit("no text")


def leave(how: str):
    """Leave in some way.

    Args:
        how: The way.
    """
    if how == "exit":
        sys.exit(3)
    if how == "bad":
        raise Bad
    if how == "long":
        raise ValueError("line\\n" * 1000)
    if how == "fork" and os.fork() == 0:
        sys.exit(0)
    if how == "interrupt":
        raise KeyboardInterrupt
    return "stayed"


def hang(seconds: float) -> str:
    """Wait.

    Args:
        seconds: The time.
    """
    time.sleep(seconds)
    return "woke"


loops = []


async def rest(seconds: float, how: str = "") -> str:
    """Wait politely.

    Args:
        seconds: The time.
        how: Blocking or not.
    """
    loops.append(id(asyncio.get_running_loop()))
    if how == "block":
        time.sleep(seconds)
    if how == "exit":
        sys.exit(1)
    await asyncio.sleep(seconds)
    return "rested"


def no_hint(a) -> str:
    """A.

    Args:
        a: It.
    """


def no_docstring(a: int) -> str:
    return ""


def no_line(a: int, b: int) -> str:
    """A.

    Args:
        a: It.
    """


def own_class(a: Bad) -> str:
    """A.

    Args:
        a: It.
    """


def many(*a: int) -> str:
    """A.

    Args:
        a: It.
    """
'''
NAMES = ["divide", "say", "leave", "hang", "rest"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tools") / "my_tools.py"
    path.write_text(TOOLS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tools(file: Path) -> list[Tool]:
    return load_tools(f"{file}:{name}" for name in NAMES)


def run(tools: list[Tool], name: str, timeout: float = 10.0, **arguments: object) -> Observation:
    return run_calls(tools, [Call(name=name, arguments=arguments)], timeout)[0]


def test_a_schema_is_that_of_the_function(tools: list[Tool]) -> None:
    assert tools[0].schema == {
        "type": "function",
        "function": {
            "name": "divide",
            "description": "Divide two numbers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "number", "description": "The dividend."},
                    "b": {"type": "number", "description": "The divisor."},
                },
                "required": ["a"],
            },
            "return": {"type": "number"},
        },
    }


def test_a_method_is_a_tool() -> None:
    class World:
        def __init__(self) -> None:
            self.moves = 0

        def move(self, steps: int) -> int:
            """Move.

            Args:
                steps: The number of steps.
            """
            self.moves += steps
            return self.moves

    world = World()
    tool = Tool.of(world.move, "world.py")
    assert list(tool.schema["function"]["parameters"]["properties"]) == ["steps"]
    assert run([tool], "move", steps=2).text == "2"
    assert world.moves == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_hint", "Argument a is missing a type hint in function no_hint"),
        ("no_docstring", "it has no docstring!"),
        ("no_line", "the docstring has no description for the argument 'b'"),
        ("own_class", "Couldn't convert the type hint"),
    ],
)
def test_a_function_that_the_model_could_not_read_is_refused(file: Path, name: str, message: str) -> None:
    with pytest.raises(ToolError) as caught:
        load_tools([f"{file}:{name}"])
    start = f"Tool `{name}` in {file} cannot be described to the model: {message}"
    assert caught.value.message.startswith(start)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["{}:many"], "Tool `many` in {} takes `*a`, which a model cannot name"),
        (["{}:divided"], "Tool function not found: divided in {}"),
        (["{}"], "Tool function not named: {}"),
        (["{}:loops"], "Tool function is not a function: loops in {} is of type list"),
        (["nowhere.py:f"], "Tool file not found: nowhere.py"),
        (["lookup"], "Unknown tool: lookup"),
        (["{}:divide", "{}:divide"], "Two tools are named `divide`"),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused(file: Path, entries: list[str], message: str) -> None:
    with pytest.raises(ToolError) as caught:
        load_tools([entry.replace("{}", str(file)) for entry in entries])
    assert caught.value.message == message.replace("{}", str(file))
    assert caught.value.trouble == "tools"


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("divide", {"a": 1, "b": 4}, "0.25"),
        ("divide", {"a": 3.0}, "3.0"),
        ("say", {"what": "text"}, "a\x00\x1b[2Jb <|im_end|>"),
        ("say", {"what": "surrogates"}, "a\ufffdb\ufffd"),
        ("say", {"what": "pair"}, "😀"),
        ("say", {"what": "nothing"}, "null"),
        ("say", {"what": "list"}, '[1, {"é": true}]'),
        ("leave", {"how": "fork"}, "stayed"),
        ("rest", {"seconds": 0}, "rested"),
    ],
)
def test_a_result_is_a_text(tools: list[Tool], name: str, arguments: dict, text: str) -> None:
    observation = run(tools, name, **arguments)
    assert (observation.text, observation.failed) == (text, False)
    observation.text.encode()


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("divide", {"a": 1, "b": 0}, "ZeroDivisionError: float division by zero|division by zero"),
        ("divide", {"b": 1}, "`divide`: missing a required argument: 'a'"),
        ("divide", {"a": 1, "c": 1}, "`divide`: got an unexpected keyword argument 'c'"),
        ("divide", {"a": "1"}, "`divide`: `a` must be number, not '1'"),
        ("divide", {"a": True}, "`divide`: `a` must be number, not True"),
        ("say", {"what": "set"}, "`say` returned a value of type set that is neither text nor JSON"),
        ("say", {"what": "nan"}, "`say` returned a value of type list that is neither text nor JSON"),
        ("say", {"what": "cycle"}, "`say` returned a value of type list that is neither text nor JSON"),
        ("say", {"what": "else"}, "`say`: `what` must be one of 'text'"),
        ("leave", {"how": "exit"}, "SystemExit: 3"),
        ("leave", {"how": "bad"}, "Bad"),
        ("leave", {"how": "interrupt"}, "KeyboardInterrupt"),
        ("rest", {"seconds": 0, "how": "exit"}, "SystemExit: 1"),
        ("conquer", {}, "there is no tool `conquer`; the tools are `divide`, `say`, `leave`, `hang`, `rest`"),
    ],
)
def test_a_failure_is_an_answer(tools: list[Tool], name: str, arguments: dict, error: str) -> None:
    observation = run(tools, name, **arguments)
    assert observation.failed
    told = json.loads(observation.text)
    assert list(told) == ["error"]
    assert any(part in told["error"] for part in error.split("|"))
    assert "Traceback" not in told["error"]


def test_arguments_that_are_no_object_are_refused(tools: list[Tool]) -> None:
    call = Call(name="divide", arguments=[1, 2])  # type: ignore[arg-type]
    assert json.loads(run_calls(tools, [call], 1.0)[0].text) == {
        "error": "the arguments of `divide` must be a JSON object"
    }


def test_a_tool_cannot_change_what_the_model_called(tools: list[Tool]) -> None:  # noqa: ARG001
    def spoil(items: list) -> str:
        """Change the argument.

        Args:
            items: a list
        """
        items.append(object())
        return "done"

    call = Call(name="spoil", arguments={"items": [1]})
    assert run_calls([Tool.of(spoil, "here")], [call], 10.0)[0].text == "done"
    assert call.arguments == {"items": [1]}


def test_texts_are_bounded(tools: list[Tool]) -> None:
    observation = run(tools, "say", what="megabytes")
    mark = f"\n[cut: {MOST_CHARACTERS} of 5000000 characters are shown]"
    assert observation.text == "x" * MOST_CHARACTERS + mark
    error = json.loads(run(tools, "leave", how="long").text)["error"]
    assert error.startswith("ValueError: line⏎line⏎")
    assert len(error) < 310


def test_calls_of_a_turn_run_at_once(tools: list[Tool]) -> None:
    names = ["hang", "hang", "rest", "rest"]
    begun = time.monotonic()
    found = run_calls(tools, [Call(name=name, arguments={"seconds": 0.5}) for name in names], 10.0)
    assert time.monotonic() - begun < 1.5
    assert [one.text for one in found] == ["woke", "woke", "rested", "rested"]
    assert all(0.4 < one.seconds < 1.5 for one in found)


@pytest.mark.parametrize("arguments", [{"name": "hang"}, {"name": "rest"}, {"name": "rest", "how": "block"}])
def test_a_tool_that_hangs_is_abandoned(tools: list[Tool], arguments: dict) -> None:
    begun = time.monotonic()
    observation = run(tools, timeout=0.3, seconds=5, **arguments)
    assert time.monotonic() - begun < 3
    assert json.loads(observation.text) == {"error": f"`{arguments['name']}` did not answer within 0.3 s"}
    assert (observation.failed, observation.seconds) == (True, 0.3)
    assert run(tools, "rest", seconds=0).text == "rested"  # a blocked loop is replaced


def test_async_tools_share_a_loop(tools: list[Tool]) -> None:
    loops = tools[4].function.__globals__["loops"]
    loops.clear()
    for _ in range(3):
        run(tools, "rest", seconds=0)
    assert len(loops) == 3
    assert len(set(loops)) == 1


def test_our_own_interruption_is_never_swallowed() -> None:
    def stop() -> str:
        """Stop."""
        raise Interrupted

    async def stop_later() -> str:
        """Stop."""
        raise Interrupted

    for function in (stop, stop_later):
        with pytest.raises(Interrupted):
            run([Tool.of(function, "here")], function.__name__)


def test_threads_do_not_keep_the_program_from_ending(tools: list[Tool]) -> None:
    run(tools, "hang", timeout=0.1, seconds=3)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "grpo-tool")
