"""Read a TOML file's values together with each key's line number.

The standard library's parser gives no positions, so a scanner finds the lines: it skips strings,
comments and brackets, and takes every `key =` that begins a statement.

    read_document(Path("prod.toml"), "prod.toml").entries[0]
    → Entry("model_name", "Qwen/…", Place("prod.toml", 9))
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_cli.config.fields import short, value_type
from grpo_cli.config.other_formats import as_toml, read_other
from grpo_cli.config.problems import Place, Problem
from grpo_cli.config.schema import SUPERSEDED, Config
from grpo_cli.files import open_regular
from grpo_cli.foreign_text import quoted

TABLE = "mlx_grpo"  # the optional table of MLX-GRPO's files

_BOOLEAN_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_BARE = r"[A-Za-z0-9_-]+"
_PART = rf'(?:{_BARE}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\')'
_NAME = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_STATEMENT = re.compile(rf"[ \t]*(?:(?P<key>{_NAME})[ \t]*=|\[\[?[ \t]*(?P<table>{_NAME})[ \t]*\])")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # a closing """ may follow up to two quotes of the text itself
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}\n]",
    re.DOTALL,
)


@dataclass(frozen=True)
class Entry:
    """One key as written, its value, and its location."""

    key: str
    value: Any
    place: Place


@dataclass(frozen=True)
class Document:
    """The entries of one file in order, and problems of the file itself."""

    entries: list[Entry]
    problems: list[Problem]


def read_document(path: Path, shown: str) -> Document:
    """Read a TOML file; `shown` is its name in messages. Raises nothing: every failure becomes a problem."""
    try:
        text = _content(path).decode("utf-8-sig")  # editors on Windows write a byte order mark
    except OSError as error:
        return _unreadable(path, shown, error)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        cure = "save the file as UTF-8"
        problem = Problem(
            message=f"Config file is not UTF-8: {shown}",
            cure=cure,
            place=Place(shown, line),
            trouble="config-syntax",
        )
        return Document([], [problem])
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return Document([], [_other_format(text, shown) or _syntax_problem(text, shown, error)])
    if not table:
        cure = f"write a starting file with `grpo config init --force {quoted(shown)}`"
        return Document(
            [], [Problem(message=f"Config file is empty: {shown}", cure=cure, trouble="config-syntax")]
        )
    return _collect(table, key_lines(text.replace("\r\n", "\n")), shown)


def _content(path: Path) -> bytes:
    """A file's bytes; reads only the shell's own pipes, `<(command)`: any other pipe could block forever."""
    if path.parts[:2] == ("/", "dev"):
        return path.read_bytes()
    with open_regular(path) as file:
        return file.read()


def _unreadable(path: Path, shown: str, error: OSError) -> Document:
    if path.is_dir():
        inside = path / "config.toml"
        cure = f"name the file in it: `{inside}`" if inside.is_file() else "name a TOML file"
        return Document(
            [], [Problem(message=f"Config file is a folder: {shown}", cure=cure, trouble="config-not-found")]
        )
    message = f"Cannot read config file: {shown}: {error.strerror}"
    cure = f"make it readable: `chmod u+r {shown}`"
    return Document([], [Problem(message=message, cure=cure, trouble="config-not-found")])


def _other_format(text: str, shown: str) -> Problem | None:
    """The problem of a file in YAML or JSON; its cure is the same configuration in TOML."""
    if (other := read_other(text)) is None:
        return None
    kind, table = other
    target = Path(shown).with_suffix(".toml").name
    cure = f"save this TOML version as {target}:\n\n{as_toml(table)}\n"
    return Problem(
        message=f"This is {kind}, but a configuration must be TOML: {shown}",
        cure=cure,
        place=Place(shown),
        trouble="config-syntax",
    )


def _syntax_problem(text: str, shown: str, error: Exception) -> Problem:
    """The problem of invalid TOML: tomllib's message and line, and a cure for the most common mistakes."""
    detail = str(error) if isinstance(error, ValueError) else "nested too deeply"
    found = re.search(r" \(at line (\d+), column (\d+)\)| \(at end of document\)", detail)
    if found is None:
        reason = detail.partition(":")[0]  # such as a number too long to read
        cure = "a value is too large or too deeply nested for any key: see `grpo config init`"
        place = Place(shown, _largest_line(text))
        return Problem(message=f"Invalid TOML: {reason}", cure=cure, place=place, trouble="config-syntax")
    line = int(found[1]) if found[1] else text.count("\n") + 1
    column = f"column {found[2]}" if found[2] else "the end of the file"
    cure = f"{column}; {_syntax_cure(text, line, detail)}"
    message = f"Invalid TOML: {detail[: found.start()]}"
    return Problem(message=message, cure=cure, place=Place(shown, line), trouble="config-syntax")


def _largest_line(text: str) -> int:
    """The line with the most digits, brackets and dots: tomllib gives no line for oversized values."""
    lines = text.split("\n")
    return 1 + max(range(len(lines)), key=lambda index: len(re.findall(r"[\d\[{.]", lines[index])))


def _syntax_cure(text: str, line: int, detail: str) -> str:
    if "overwrite" in detail:
        return "the key is given twice: keep one of the two"
    lines = text.splitlines()
    written = (
        re.match(rf"[ \t]*({_BARE})[ \t]*=[ \t]*([^#]*)", lines[line - 1]) if line <= len(lines) else None
    )
    if written is None:
        return 'each line is `key = value`; text needs quotes: `dataset = "arithmetic"`'
    key, value = written[1], written[2].strip()
    if (meant := _boolean_meant(key, value)) is not None:
        return f"write `{key} = {meant}`"
    if re.fullmatch(r"[+-]?\.\d+|[+-]?\d+\.", value):
        return f"a number needs digits on both sides of the point: `{key} = {float(value)}`"
    if re.fullmatch(r"[+-]?\d+,\d+", value):
        return f"a number has a decimal point, not a comma: `{key} = {value.replace(',', '.')}`"
    if re.search("[“”„‘’«»]", value):
        return f'text needs straight quotes: `{key} = "…"`'
    if re.fullmatch(r"[A-Za-z][\w./:-]*", value):
        return f'write `{key} = "{value}"`'
    return "text needs quotes, a list needs brackets, a number neither"


def _boolean_meant(key: str, value: str) -> str | None:
    """The boolean that a bare word stands for: `True` for any key, `yes` and `on` for boolean keys."""
    name = SUPERSEDED.get(key, key)
    is_boolean = name in Config.model_fields and value_type(name) is bool
    word = value.lower()
    if word in ("true", "false"):
        return word
    return _BOOLEAN_WORDS.get(word) if is_boolean else None


def key_lines(text: str) -> dict[str, int]:
    """Dotted name → line number of every statement in a TOML text: `mlx_grpo.seed` → 3."""
    lines: dict[str, int] = {}
    prefix, depth, start = "", 0, 0
    ends = [(token[0], token.end()) for token in _TOKEN.finditer(text)]
    for token, end in [*ends, ("\n", len(text))]:
        depth += (token in "[{") - (token in "]}")
        if token != "\n" or depth > 0:
            continue
        if statement := _STATEMENT.match(text, start):
            name = ".".join(map(_part_name, re.findall(_PART, statement[0])))
            prefix = f"{name}." if statement["table"] else prefix
            lines.setdefault(name if statement["table"] else prefix + name, text.count("\n", 0, start) + 1)
        start = end
    return lines


def _part_name(part: str) -> str:
    """One part of a dotted key as the parser reads it: without quotes, with escapes resolved."""
    return next(iter(tomllib.loads(f"{part} = 0"))) if "\\" in part else part.strip("\"'")


def _collect(table: dict[str, Any], lines: dict[str, int], shown: str) -> Document:
    """Flat keys and those under `[mlx_grpo]` as one list; a key in both is a problem."""
    inner = table.pop(TABLE, {})
    problems: list[Problem] = []
    if not isinstance(inner, dict):
        message = f"Failed to coerce value: {short(repr(inner))} to {dict}"
        place = Place(shown, lines.get(TABLE))
        problems.append(
            Problem(
                message=message, cure=f"`[{TABLE}]` is a table", key=TABLE, place=place, trouble="wrong-type"
            )
        )
        inner = {}
    flat = [Entry(key, value, Place(shown, _line_of(key, lines))) for key, value in table.items()]
    nested = [
        Entry(key, value, Place(shown, _line_of(f"{TABLE}.{key}", lines))) for key, value in inner.items()
    ]
    for entry in nested:
        if entry.key in table:
            cure = f"keep one of lines {lines.get(entry.key)} and {entry.place.line}"
            message = f"Config key given twice: {short(entry.key)}"
            problems.append(
                Problem(message=message, cure=cure, key=entry.key, place=entry.place, trouble="config-syntax")
            )
    return Document([*flat, *nested], problems)


def _line_of(name: str, lines: dict[str, int]) -> int | None:
    """A key's line; if it has none, the line of its inline table or first dotted key."""
    if name in lines:
        return lines[name]
    if below := [line for other, line in lines.items() if other.startswith(f"{name}.")]:
        return min(below)
    return lines.get(name.partition(".")[0])
