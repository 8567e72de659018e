"""Read the tool calls in what a model wrote, by mlx-lm's parsers.

    parser = parser_for(tokenizer)
    parser.parse('<tool_call>{"name": "lookup", "arguments": {"city": "Paris"}}</tool_call>', schemas)
        →  ParsedTurn("", [Call(name="lookup", arguments={"city": "Paris"}, id="call00000")], "")

The parser is the one that mlx-lm chooses for the model, or the one named by the key `tool_parser`. A call
that cannot be parsed is an error text for the model, never an exception: a model in training writes anything.
"""

import importlib
import pkgutil
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

from grpo_cli.environments.tool_parsers import HARMONY_START, LLAMA_START, parse_harmony, parse_llama
from grpo_cli.environments.tools import Call
from grpo_cli.errors import ModelError, ToolError
from grpo_cli.models.tokenizer import Tokenizer

# mlx-lm's parsers raise whatever their text makes them raise.
FAILED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
ID = re.compile(r"[\w.:-]{1,80}", re.ASCII)
MISTRAL_ID = re.compile(r"[A-Za-z0-9]{9}")  # its template refuses others
SHOWN = 100  # characters of a parser's message

Parse = Callable[[str, Any], Any]
Schemas = list[dict[str, Any]]


@dataclass(frozen=True)
class ParsedTurn:
    """A turn's text outside its calls, its calls, and the reason why a call could not be parsed."""

    content: str
    calls: list[Call] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class ToolParser:
    """A model's syntax for tool calls."""

    name: str
    start: str  # a regular expression for the marker before a call
    end: str  # the marker after it; empty: the call ends with the turn, or where the next begins
    function: Parse
    thinking: tuple[str, str] | None = None  # markers around reasoning, where a call is a mere thought

    def parse(self, text: str, schemas: Schemas, first: int = 0) -> ParsedTurn:
        """The calls of a turn. `first`: number of the rollout's earlier calls, for the calls' ids."""
        content, pieces = self.split(text)
        calls: list[Call] = []
        errors = []
        for piece in pieces:
            try:
                found = self.function(piece, schemas)
                parsed = [self.call(one) for one in (found if isinstance(found, list) else [found])]
            except FAILED as error:
                reason = str(error).partition("\n")[0][:SHOWN] or type(error).__name__
                errors.append(f"this tool call cannot be parsed: {reason}")
            else:
                calls += parsed
        named = [self.identified(call, first + number) for number, call in enumerate(calls)]
        return ParsedTurn(content, named, "; ".join(dict.fromkeys(errors)))

    def split(self, text: str) -> tuple[str, list[str]]:
        """The text before the first call, and the text of each call without its markers."""
        begin = self.after_thinking(text)
        marks = list(re.finditer(self.start, text[begin:])) if begin is not None else []
        if begin is None or not marks:
            return text, []
        spans = [mark.span() for mark in marks]
        stops = [start for start, _ in spans[1:]] + [len(text) - begin]
        pieces = [text[begin + stop : begin + end] for (_, stop), end in zip(spans, stops, strict=True)]
        pieces = [piece.partition(self.end)[0] if self.end else piece for piece in pieces]
        return text[: begin + spans[0][0]].rstrip(), pieces

    def after_thinking(self, text: str) -> int | None:
        """The position after the reasoning; None if the turn ended within it."""
        if self.thinking is None:
            return 0
        start, end = self.thinking
        place = text.rfind(end)
        if place >= 0:
            return place + len(end)
        return None if start in text else 0

    def call(self, found: Any) -> Call:
        """A parser's result as a Call. Raises ValueError if it is not one."""
        if not isinstance(found, dict):
            raise ValueError('a call is {"name": …, "arguments": {…}}')
        name, arguments = found.get("name"), found.get("arguments", found.get("parameters", {}))
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a function's name")
        if not isinstance(arguments, dict):
            raise ValueError("the arguments must be a JSON object")
        own = found.get("id")
        return Call(name=name, arguments=arguments, id=own if isinstance(own, str) else "")

    def identified(self, call: Call, number: int) -> Call:
        """The call with an id that its template accepts: the model's own, else one of nine characters."""
        form = MISTRAL_ID if self.name == "mistral" else ID
        if form.fullmatch(call.id):
            return call
        return Call(name=call.name, arguments=call.arguments, id=f"call{number:05d}")


OWN: dict[str, tuple[str, str, Parse]] = {
    "harmony": (HARMONY_START, "<|call|>", parse_harmony),
    "llama3_json": (LLAMA_START, "", parse_llama),
}


def parser_for(tokenizer: Tokenizer, name: str = "", schemas: Schemas | None = None) -> ToolParser:
    """The model's parser, or the one called `name`.

    Raises ModelError for a model without a known syntax, and ToolError for an unknown name.
    """
    if name and name not in names():
        near = get_close_matches(name, names(), n=1)
        start = f"did you mean `{near[0]}`? " if near else ""
        raise ToolError(f"Unknown tool_parser: {name}", f"{start}parsers: {', '.join(names())}")
    wrapped = getattr(tokenizer, "wrapped", None)  # nanochat's tokenizer wraps none
    chosen = name or (inferred(wrapped, schemas) if wrapped is not None else "")
    if not chosen:
        raise ModelError(
            f"The model{_named(wrapped)} has no syntax for tool calls that is known here",
            f'name the one it was trained on: `tool_parser = "json_tools"`; parsers: {", ".join(names())}',
            trouble="tools",
        )
    return made(chosen, wrapped)


def names() -> list[str]:
    """The names for `tool_parser`: the modules of mlx_lm.tool_parsers, and our own."""
    from mlx_lm import tool_parsers

    return sorted({module.name for module in pkgutil.iter_modules(tool_parsers.__path__)} | {*OWN})


def inferred(wrapped: Any, schemas: Schemas | None) -> str:
    """The name of the parser for a model: mlx-lm's choice, else ours by the template; empty: none."""
    if wrapped.has_tool_calling:
        return str(wrapped.tool_parser.__module__).rpartition(".")[2]
    if not wrapped.has_chat_template or wrapped._chat_template is not None:
        return ""
    from mlx_lm.tokenizer_utils import _infer_tool_parser

    template = wrapped.get_chat_template(tools=schemas or [])
    # A model with several templates: mlx-lm looks at none of them, and transformers takes `tool_use`.
    found = _infer_tool_parser(SimpleNamespace(chat_template=template, get_vocab=wrapped.get_vocab))
    if found:
        return str(found)
    if "<|channel|>commentary" in template and "functions." in template:
        return "harmony"
    return "llama3_json" if "ipython" in template and '"parameters": ' in template else ""


def made(name: str, wrapped: Any) -> ToolParser:
    """The parser of that name, with the model's own markers of reasoning."""
    # Some of mlx-lm's parsers compile what a model wrote.
    warnings.filterwarnings("ignore", category=SyntaxWarning, module="<unknown>")
    has_thinking = wrapped is not None and wrapped.has_thinking
    thinking = (wrapped.think_start, wrapped.think_end) if has_thinking else None
    if name in OWN:
        start, end, function = OWN[name]
        return ToolParser(name=name, start=start, end=end, function=function, thinking=thinking)
    module = importlib.import_module(f"mlx_lm.tool_parsers.{name}")
    return ToolParser(
        name=name,
        start=re.escape(module.tool_call_start),
        end=module.tool_call_end,
        function=module.parse_tool_call,
        thinking=thinking,
    )


def _named(wrapped: Any) -> str:
    """` NAME` if the tokenizer knows its model."""
    name = str(getattr(wrapped, "name_or_path", "") or "").rstrip("/").rpartition("/")[2]
    return f" {name}" if name else ""
