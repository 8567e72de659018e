"""Turns that a person types in the place of a model, for `grpo env try`.

    /guess {"word": "house"}       a call, in any of three forms; each line of a turn may be one
    /guess word=house
    /guess house
    I think it is a house.         a text, for environments with `respond`

Calls in the model's own syntax work too, where a model was named. Without one, conversations have nanochat's
format, which knows no tools: their results are shown as a user's message.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.environments.make_environment import EnvironmentMaker
from grpo_cli.environments.session import Limits, Render, Session
from grpo_cli.environments.suffix import suffix_for
from grpo_cli.environments.table import Environments
from grpo_cli.environments.tool_calls import ParsedTurn, Schemas, ToolParser
from grpo_cli.environments.tool_environment import ToolEnvironment, tools_in
from grpo_cli.environments.tooling import Tooling
from grpo_cli.environments.tools import Call, Tool, load_tools
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import Example, Message

MARK = "/"


def nothing(text: str, schemas: Any) -> Any:  # noqa: ARG001
    """The parser of a model without tool syntax; its marker is never found."""
    raise ValueError("no syntax")


@dataclass(frozen=True, kw_only=True)
class HandParser(ToolParser):
    """Reads typed calls, and those in the syntax of a model."""

    name: str = "by hand"
    start: str = r"(?!)"  # matches nothing
    end: str = ""
    function: Any = nothing
    model: ToolParser | None = None

    def parse(self, text: str, schemas: Schemas, first: int = 0) -> ParsedTurn:
        """As ToolParser: the calls of lines that begin with `/`, else the model's parser decides."""
        lines = text.splitlines()
        typed = [line for line in lines if line.startswith(MARK)]
        if not typed:
            return self.model.parse(text, schemas, first) if self.model else ParsedTurn(text)
        calls: list[Call] = []
        errors = []
        for line in typed:
            try:
                name, arguments = call_of(line, schemas)
                calls.append(Call(name=name, arguments=arguments, id=f"call{first + len(calls):05d}"))
            except (ValueError, RecursionError) as error:
                errors.append(f"this tool call cannot be parsed: {error}")
        content = "\n".join(line for line in lines if not line.startswith(MARK))
        return ParsedTurn(content, calls, errors[0] if errors else "")


def call_of(line: str, schemas: Schemas) -> tuple[str, Any]:
    """The name and the arguments of a typed call. Raises ValueError."""
    name, _, rest = line.removeprefix(MARK).strip().partition(" ")
    rest = rest.strip()
    if rest.startswith("{"):
        return name, json.loads(rest)
    properties = properties_of(name, schemas)
    free = list(properties)
    arguments: dict[str, Any] = {}
    for word in shlex.split(rest):
        key, equals, text = word.partition("=")
        if not equals or key not in properties:
            if not free:
                raise ValueError(f"{word!r} is one argument too many")
            key, text = free[0], word
        free = [one for one in free if one != key]
        arguments[key] = value_of(text, properties[key])
    return name, arguments


def properties_of(name: str, schemas: Schemas) -> dict[str, Any]:
    """The parameters of a tool by name; empty if there is no such tool."""
    found = [one["function"]["parameters"] for one in schemas if one["function"]["name"] == name]
    return dict(found[0].get("properties", {})) if found else {}


def value_of(text: str, schema: dict[str, Any]) -> Any:
    """A typed word as the parameter's type: a text, or JSON where it is one."""
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def typed_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a typed turn. Special tokens may be typed: a model could write them."""
    if isinstance(tokenizer, NanochatTokenizer):
        return tokenizer.encoding.encode(text, allowed_special="all")
    return tokenizer.encode(text)


def end_id(tokenizer: Tokenizer) -> int | None:
    """The token that ends a typed turn; None for a model without an end token."""
    if isinstance(tokenizer, NanochatTokenizer):
        return tokenizer.end_ids[0]
    own = getattr(getattr(tokenizer, "wrapped", None), "eos_token_id", None)
    return own if own in tokenizer.eos_ids else min(tokenizer.eos_ids, default=None)


# --- tooling -------------------------------------------------------------------------------------------


def with_typed_calls(tooling: Tooling) -> Tooling:
    """The tooling of a model, whose sessions read typed calls, too."""

    def make(example: Example) -> Session | None:
        session = tooling.make_session(example)
        tools = tools_in(session.environment) if session else None
        if tools is not None:
            tools.parser = HandParser(model=tools.parser)
        return session

    return replace(tooling, make_session=make)


def tooling_without_model(
    config: Config, tokenizer: Tokenizer, environments: Environments | None, files: Sequence[str] = ()
) -> Tooling:
    """The tooling for typed turns alone, with any tokenizer. `files`: the entries of `tools` in files."""
    limits = Limits(max_turns=config.max_turns, max_result_tokens=config.max_result_tokens)
    render = plain_render(tokenizer)
    if environments is not None:
        maker = EnvironmentMaker(config, tokenizer, environments, limits, HandParser(), render)
        return Tooling(maker.session, begin=maker.begin)
    tools: list[Tool] = load_tools(files)

    def make(_: Example) -> Session:
        environment = ToolEnvironment(
            tools, HandParser(), max_tool_calls=config.max_tool_calls, tool_timeout=config.tool_timeout
        )
        return Session(environment, limits, render)

    return Tooling(make)


def plain_render(tokenizer: Tokenizer) -> Render:
    """Render answers as one message of the user, which every chat format has."""
    suffix = suffix_for(tokenizer)

    def after(assistant: Message, ended: bool, replies: Sequence[Message]) -> list[int]:
        text = "\n".join(str(message["content"]) for message in replies)
        return suffix.after(assistant, ended, [{"role": "user", "content": text}])

    return after
