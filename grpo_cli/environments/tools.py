"""Tools: functions that the model may call while it writes.

    tools = load_tools(["my_tools.py:lookup"])
    tools[0].schema       →  {"type": "function", "function": {"name": "lookup", "parameters": …}}

A tool is a plain or `async` function with type hints and a docstring in Google's style, as in TRL. Its schema
is made by transformers' `get_json_schema` and reaches the model by the chat template. A call is checked
against it before the function runs, so that a wrong call is answered and does not fail in the user's code.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo_cli.errors import ToolError
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.user_code import TOOL, function_in, import_file

HINT = "give every argument a type hint and a line under `Args:` in the docstring"
UNNAMED: dict[Any, str] = {  # kinds of parameters that a call cannot name
    inspect.Parameter.POSITIONAL_ONLY: "{} by position only",
    inspect.Parameter.VAR_POSITIONAL: "*{}",
    inspect.Parameter.VAR_KEYWORD: "**{}",
}
# JSON's types, with Python's classes for them. For Python `bool` is an `int`: `fits` tells them apart.
TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call as the model wrote it."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class Tool:
    """A function and its description for the model."""

    name: str
    function: Callable[..., Any]
    schema: dict[str, Any]

    @staticmethod
    def of(function: Callable[..., Any], where: str) -> "Tool":
        """The tool made of a function or a bound method. `where`: its file, for errors.

        Raises ToolError if the model could not call it: a hint or the docstring of an argument is missing, or
        an argument cannot be named.
        """
        name = getattr(function, "__name__", type(function).__name__)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in UNNAMED:
                taken = UNNAMED[parameter.kind].format(parameter.name)
                raise ToolError(
                    f"Tool `{name}` in {where} takes `{taken}`, which a model cannot name",
                    "write each argument as an argument of its own",
                )
        return Tool(name, function, schema_of(function, name, where))

    @property
    def is_async(self) -> bool:
        """True for an `async def`."""
        return inspect.iscoroutinefunction(self.function)

    def problem_with(self, arguments: Any) -> str:
        """The first reason why the function cannot be called with these arguments; empty if there is none."""
        if not isinstance(arguments, dict) or not all(isinstance(name, str) for name in arguments):
            return f"the arguments of `{self.name}` must be a JSON object"
        try:
            inspect.signature(self.function).bind(**arguments)
        except TypeError as error:
            return f"`{self.name}`: {error}"
        properties = self.schema["function"]["parameters"]["properties"]
        for name, value in arguments.items():
            expected = properties.get(name, {})
            if not fits(value, expected):
                return f"`{self.name}`: `{name}` must be {spelled(expected)}, not {repr(value)[:80]}"
        return ""


def load_tools(specs: Iterable[str]) -> list[Tool]:
    """The tools of `tools = ["file.py:function", …]`. Raises ToolError for one that cannot be used."""
    found: dict[str, Tool] = {}
    modules: dict[Path, ModuleType] = {}  # a file with several tools is run once
    for text in specs:
        tool = load_tool(text, modules)
        if tool.name in found:
            raise ToolError(f"Two tools are named `{tool.name}`", "rename one: the model calls tools by name")
        found[tool.name] = tool
    return list(found.values())


def load_tool(text: str, modules: dict[Path, ModuleType]) -> Tool:
    """The tool of one entry of `tools`; `modules` holds the files that were run before."""
    spec = RewardSpec.parse(text)
    if not spec.is_file:
        raise ToolError(f"Unknown tool: {text}", "write a function of yours as `path/to/file.py:function`")
    path = spec.path.resolve()
    modules[path] = modules.get(path) or import_file(path, spec.file, TOOL)
    return Tool.of(function_in(modules[path], spec.name, spec.file, TOOL), spec.file)


def schema_of(function: Callable[..., Any], name: str, where: str) -> dict[str, Any]:
    """The function's JSON schema, as transformers makes it. Raises ToolError that says what is missing."""
    from transformers.utils import get_json_schema
    from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException

    try:
        return get_json_schema(function)
    # A hint may name anything, and `(choices: …)` in a docstring is read as JSON.
    except (
        DocstringParsingException,
        TypeHintParsingException,
        ArithmeticError,
        AttributeError,
        LookupError,
        NameError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        reason = re.sub(r"^Cannot generate JSON schema for \S+ because ", "", str(error).partition("\n")[0])
        raise ToolError(
            f"Tool `{name}` in {where} cannot be described to the model: {reason}", HINT
        ) from error


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """True if a value has the schema's type; what is inside a list or an object is not looked at."""
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"]) or (value is None and "nullable" in schema)
    if "enum" in schema and value not in schema["enum"]:
        return value is None and "nullable" in schema
    names = types_of(schema)
    if not names:
        return True
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, TYPES.get(name, (object,))) for name in names)


def types_of(schema: dict[str, Any]) -> list[str]:
    """The schema's type or types; empty if it allows any."""
    kind = schema.get("type", [])
    names = [kind] if isinstance(kind, str) else list(kind)
    return [*names, "null"] if names and schema.get("nullable") else names


def spelled(schema: dict[str, Any]) -> str:
    """A schema's type in words: `integer or null`, `one of "a", "b"`."""
    if "enum" in schema:
        return f"one of {', '.join(map(repr, schema['enum']))}"
    kinds = [name for one in schema.get("anyOf", [schema]) for name in types_of(one)]
    return " or ".join(dict.fromkeys(kinds)) or "another value"
