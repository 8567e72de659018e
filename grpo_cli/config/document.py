"""A TOML file read for its values and for the line each key stands on.

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

from grpo_cli.config.problems import Place, Problem

TABLE = "mlx_grpo"  # MLX-GRPO's files may put their keys under this table

_BARE = r"[A-Za-z0-9_-]+"
_PART = rf'(?:{_BARE}|"[^"\n]*"|\'[^\'\n]*\')'
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
    """A key as it was written, its value, and where."""

    key: str
    value: Any
    place: Place


@dataclass(frozen=True)
class Document:
    """The entries of one file in its order, and what is wrong with the file itself."""

    entries: list[Entry]
    problems: list[Problem]


def read_document(path: Path, shown: str) -> Document:
    """Read a TOML file; `shown` is its name in messages. No failure is raised: each is a problem."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # editors on Windows put a mark in front
    except OSError as error:
        return _unreadable(path, shown, error)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        cure = "save the file in the encoding UTF-8"
        return Document([], [Problem(f"Config file is not UTF-8: {shown}", cure, place=Place(shown, line))])
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return Document([], [_syntax_problem(text, shown, error)])
    if not table:
        cure = f"write a starting file with `grpo config init --force {shown}`"
        return Document([], [Problem(f"Config file is empty: {shown}", cure)])
    return _collect(table, key_lines(text.replace("\r\n", "\n")), shown)


def _unreadable(path: Path, shown: str, error: OSError) -> Document:
    if path.is_dir():
        inside = path / "config.toml"
        cure = f"name the file in it: `{inside}`" if inside.is_file() else "name a TOML file"
        return Document([], [Problem(f"Config file is a folder: {shown}", cure)])
    message = f"Cannot read config file: {shown}: {error.strerror}"
    return Document([], [Problem(message, f"make it readable: `chmod u+r {shown}`")])


def _syntax_problem(text: str, shown: str, error: Exception) -> Problem:
    """tomllib's message, its line, and a cure that guesses at the commonest slips."""
    detail = str(error) if isinstance(error, ValueError) else "nested too deeply"
    found = re.search(r" \(at line (\d+), column (\d+)\)| \(at end of document\)", detail)
    if found is None:
        reason = detail.partition(":")[0]  # of a number too long to read, for instance
        return Problem(f"Invalid TOML: {reason}", "see https://toml.io", place=Place(shown))
    line = int(found[1]) if found[1] else text.count("\n") + 1
    column = f"column {found[2]}" if found[2] else "the end of the file"
    cure = f"{column}; {_syntax_cure(text, line, detail)}"
    return Problem(f"Invalid TOML: {detail[: found.start()]}", cure, place=Place(shown, line))


def _syntax_cure(text: str, line: int, detail: str) -> str:
    if "overwrite" in detail:
        return "the key is given twice: keep one of the two"
    lines = text.splitlines()
    written = (
        re.match(rf"[ \t]*({_BARE})[ \t]*=[ \t]*([^#]*)", lines[line - 1]) if line <= len(lines) else None
    )
    if written is None:
        return 'a line is `key = value`; a text stands in quotes: `dataset = "arithmetic"`'
    key, value = written[1], written[2].strip()
    if value.lower() in ("true", "false"):
        return f"write `{key} = {value.lower()}`"
    if re.fullmatch(r"[A-Za-z][\w./:-]*", value):
        return f'write `{key} = "{value}"`'
    return "a text stands in quotes, a list in brackets, a number alone"


def key_lines(text: str) -> dict[str, int]:
    """The line of every statement of a TOML text, by its dotted name: `mlx_grpo.seed` → 3."""
    lines: dict[str, int] = {}
    prefix, depth, start = "", 0, 0
    ends = [(token[0], token.end()) for token in _TOKEN.finditer(text)]
    for token, end in [*ends, ("\n", len(text))]:
        depth += (token in "[{") - (token in "]}")
        if token != "\n" or depth > 0:
            continue
        if statement := _STATEMENT.match(text, start):
            name = ".".join(part.strip("\"'") for part in re.findall(_PART, statement[0]))
            prefix = f"{name}." if statement["table"] else prefix
            lines.setdefault(name if statement["table"] else prefix + name, text.count("\n", 0, start) + 1)
        start = end
    return lines


def _collect(table: dict[str, Any], lines: dict[str, int], shown: str) -> Document:
    """Flat keys and those under `[mlx_grpo]` as one list; a key in both is a problem."""
    inner = table.pop(TABLE, {})
    problems: list[Problem] = []
    if not isinstance(inner, dict):
        message = f"Failed to coerce value: {inner!r} to {dict}"
        problems.append(Problem(message, f"`[{TABLE}]` is a table", TABLE, Place(shown, lines.get(TABLE))))
        inner = {}
    flat = [Entry(key, value, Place(shown, _line_of(key, lines))) for key, value in table.items()]
    nested = [
        Entry(key, value, Place(shown, _line_of(f"{TABLE}.{key}", lines))) for key, value in inner.items()
    ]
    for entry in nested:
        if entry.key in table:
            cure = f"keep one of lines {lines.get(entry.key)} and {entry.place.line}"
            problems.append(Problem(f"Config key given twice: {entry.key}", cure, entry.key, entry.place))
    return Document([*flat, *nested], problems)


def _line_of(name: str, lines: dict[str, int]) -> int | None:
    """The line of a key; of its inline table or its first dotted key where it has no own line."""
    if name in lines:
        return lines[name]
    if below := [line for other, line in lines.items() if other.startswith(f"{name}.")]:
        return min(below)
    return lines.get(name.partition(".")[0])
