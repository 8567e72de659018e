"""A user's environment in TRL's shape, as an environment of ours.

    class Echo:
        def reset(self, word: str) -> str:
            self.word = word
            return f"Say {word}."

        def respond(self, text: str) -> str | None:
            return None if self.word in text else "Once more."

    environment = UserEnvironment(Echo())
    environment.reset({"word": "yes", "level": 3})   →  "Say yes."   (`level` is left out: reset has no place)
    environment.respond(turn)                        →  Reply.of_user("Once more.")

Departures from TRL: `respond`, for tasks without the syntax of tools, and an async `reset`, `respond` or
`get_reward`. A failure of these three, or of the constructor, ends the run with the error in the user's own
code, as a reward's does; a failing tool is an answer that the model sees.
"""

import asyncio
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any

from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.environments.user_class import make, own_tools
from grpo_cli.errors import GrpoError, Interrupted, ToolError
from grpo_cli.foreign_text import aside, quoted
from grpo_cli.rewards.forks import forks_end
from grpo_cli.types import Message
from grpo_cli.user_error import describe, place, shown, trace

OURS = "grpo_cli."  # modules whose environments are trusted to keep to the protocol
RESULTS: dict[str, tuple[Any, str]] = {
    "reset": ((str, NoneType), "a text or None"),
    "read": (list, "a list of ids"),
    "respond": ((Reply, NoneType), "a Reply or None"),
    "get_reward": (NoneType, "a finite number or None"),
}


class UserEnvironment(Environment):
    """One rollout's instance of a user's class.

    `tools`: the environment that runs the calls of `tool_functions`, set by whoever has the model's parser. A
    turn with calls is its own; any other turn goes to the user's `respond`.
    """

    def __init__(self, instance: Any) -> None:
        self.instance = instance
        self.tools: Environment | None = None
        self.assistant: Message | None = None  # the last turn with its calls, as the tools read it

    def reset(self, columns: dict[str, Any]) -> str | None:
        """Pass the columns to the user's `reset` by keyword: those it names, or all if it has `**kwargs`."""
        return self.text_of("reset", **fitting(self.instance, columns))

    def respond(self, turn: Turn) -> Reply | None:
        """The results of the turn's calls, else the text of the user's `respond` as a user message."""
        if self.tools is not None and (reply := self.of_tools(self.tools, turn)) is not None:
            return reply
        if not hasattr(self.instance, "respond"):
            return None
        text = self.text_of("respond", turn.text)
        return None if text is None else Reply.of_user(text)

    def of_tools(self, tools: Environment, turn: Turn) -> Reply | None:
        """The results of the turn's calls, which are counted; None if it has none."""
        reply = tools.respond(turn)
        self.calls, self.failures = tools.calls, tools.failures
        self.assistant = getattr(tools, "assistant", None)
        return reply

    def get_reward(self) -> float | None:
        """The user's own reward; None without such a method."""
        if not hasattr(self.instance, "get_reward"):
            return None
        value = call(self.instance, "get_reward")
        return None if value is None else number(self.instance, value)

    def tool_functions(self) -> list[Callable[..., Any]]:
        """The bound public methods that the model may call, in the order of their definition."""
        return [getattr(self.instance, name) for name in own_tools(type(self.instance))]

    def text_of(self, method: str, *values: Any, **columns: Any) -> str | None:
        """The text or None that a method returns."""
        returned = call(self.instance, method, *values, **columns)
        if returned is None:
            return None
        if isinstance(returned, str):
            return str.__str__(returned)  # a user's subclass of str could do anything where it is formatted
        raise ToolError(
            f"Environment returned {typed(returned)}: {name_of(type(self.instance), method)}",
            "it must return a text or None",
        )


def construct(cls: type, tokenizer: Any) -> Environment:
    """A new environment for one rollout, of an embedded or a user's class.

    Raises ToolError if a user's constructor raises anything.
    """
    if cls.__module__.startswith(OURS):
        made = make(cls, tokenizer)
    else:
        made = attempt(cls, "__init__", lambda: make(cls, tokenizer))
    return made if isinstance(made, Environment) else UserEnvironment(made)


def number(instance: Any, value: Any) -> float:
    """The reward that an instance gave, as a finite float. Text is refused, although float() accepts it."""
    cause = None
    try:
        result = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: torch's
        result, cause = math.nan, error
    if math.isfinite(result):
        return result
    raise ToolError(
        f"Environment returned {typed(value)}: {name_of(type(instance), 'get_reward')}",
        "it must return a finite number, or None if it does not apply",
    ) from cause


def ask(environment: Environment, method: str, *values: Any) -> Any:
    """The result of an environment's method, whoever wrote its class.

    Raises ToolError for an exception, or a result of the wrong type, of a user's own subclass of Environment.
    """
    if type(environment).__module__.startswith(OURS):
        return getattr(environment, method)(*values)
    result = call(environment, method, *values)
    if method == "get_reward" and result is not None:
        return number(environment, result)
    kinds, words = RESULTS[method]
    if not isinstance(result, kinds):
        raise ToolError(
            f"Environment returned {typed(result)}: {name_of(type(environment), method)}",
            f"it must return {words}",
        )
    return result


def fitting(instance: Any, columns: dict[str, Any]) -> dict[str, Any]:
    """The columns that the instance's `reset` accepts. Raises ToolError if one is missing."""
    parameters = inspect.signature(instance.reset).parameters.values()
    missing = [
        one.name
        for one in parameters
        if one.default is one.empty
        and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        and one.name not in columns
    ]
    if missing:
        raise ToolError(
            f"Environment needs the column `{missing[0]}`: {name_of(type(instance), 'reset')}",
            f"the example has the columns {', '.join(columns) or 'none'}; add it to the dataset, or give the "
            f"argument a default; `grpo env try` takes `--column {missing[0]}=…`",
        )
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return columns
    names = {one.name for one in parameters if one.kind is not one.VAR_POSITIONAL}
    return {name: value for name, value in columns.items() if name in names}


def call(instance: Any, method: str, *values: Any, **columns: Any) -> Any:
    """Call a method; its result, awaited if it is async. Raises ToolError if it raises anything."""
    return attempt(type(instance), method, lambda: getattr(instance, method)(*values, **columns))


def attempt(cls: type, method: str, work: Callable[[], Any]) -> Any:
    """The result of `work`, awaited if it is async, which runs a method of a user's class.

    Raises ToolError with the user's own line if it raises anything.
    """
    try:
        with aside(), forks_end():
            returned = work()
            return asyncio.run(awaited(returned)) if inspect.isawaitable(returned) else returned
    except (Interrupted, GrpoError):  # a signal came meanwhile; or it says by itself what is wrong
        raise
    # A user's code can raise anything, even SystemExit. The error is passed on with its place.
    except BaseException as error:
        line = place(error, file_of(cls))
        where = f"{name_of(cls, method)}{f' ({line})' if line else ''}"
        raise ToolError(
            f"Environment raised {describe(error)}: {where}",
            f"play it alone: `grpo env try {quoted(entry_of(cls))}`",
            trace=trace(error),
        ) from error


async def awaited(value: Any) -> Any:
    """The result of an awaitable, which need not be a coroutine."""
    return await value


def file_of(cls: type) -> Path | None:
    """The file of a class; None if it has none."""
    try:
        return Path(inspect.getfile(cls))
    except (OSError, TypeError):
        return None


def entry_of(cls: type) -> str:
    """The class as the key `environment` names it: `my_env.py:Wordle`, from the current folder."""
    file = file_of(cls)
    if file is None:
        return cls.__name__
    near = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return f"{near}:{cls.__name__}"


def name_of(cls: type, method: str) -> str:
    """The method as an error names it: `Wordle.reset in my_env.py`."""
    file = file_of(cls)
    return f"{cls.__name__}.{method}{f' in {file.name}' if file else ''}"


def typed(value: Any) -> str:
    """A wrong value with its type: `3 of type int`."""
    return f"{shown(value)} of type {type(value).__name__}"
