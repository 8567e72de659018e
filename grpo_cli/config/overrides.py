"""`--set KEY=VALUE`: parse the shell's text according to the key's type.

Text that does not fit its key's type stays text, so that validation reports it exactly as in a file.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from grpo_cli.config.fields import element_type, parse_table, parse_toml_value, value_type
from grpo_cli.config.meant import BOOLEANS
from grpo_cli.config.problems import COMMAND_LINE, Place, Problem
from grpo_cli.config.schema import SUPERSEDED, Config
from grpo_cli.config.toml_source import Document, Entry


def read_overrides(overrides: Sequence[str], below: Mapping[str, Any] = MappingProxyType({})) -> Document:
    """The entries of `--set` options in order; the last one for a key wins.

    `KEY.NAME=VALUE` sets one name of a table and keeps the others: those of earlier options, else those of
    `below`, the values of the file.
    """
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for text in overrides:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            message = f"Failed to parse --set: {text!r}"
            problems.append(
                Problem(
                    message=message,
                    cure="write `--set KEY=VALUE`",
                    place=Place(COMMAND_LINE),
                    trouble="config-syntax",
                )
            )
        elif not value.isascii() and not _is_unicode(value):
            message = f"Failed to parse --set: {text!r} is not UTF-8"
            problems.append(
                Problem(
                    message=message,
                    cure="pass the value in UTF-8",
                    key=key,
                    place=Place(COMMAND_LINE),
                    trouble="config-syntax",
                )
            )
        elif (table := table_of(key)) is not None:
            before = entries[table].value if table in entries else below.get(table)
            given = {**(before if isinstance(before, dict) else {}), key[len(table) + 1 :]: untyped(value)}
            entries[table] = Entry(table, given, Place(COMMAND_LINE))
        else:
            entries[key] = Entry(key, typed(SUPERSEDED.get(key, key), value), Place(COMMAND_LINE))
    return Document(list(entries.values()), problems)


def table_of(key: str) -> str | None:
    """The key of the table that `KEY.NAME` names an entry of, else None."""
    table, dot, name = key.partition(".")
    return table if dot and name and table in Config.model_fields and value_type(table) is dict else None


def untyped(text: str) -> Any:
    """The value of an entry of a table, whose type no schema knows: TOML, JSON, or else the text."""
    if text.lower() in ("true", "false"):  # also as Python spells them
        return text.lower() == "true"
    found = parse_table(text) if text.startswith("{") else parse_toml_value(text)
    return text if found is None else found


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python passes undecodable bytes as lone surrogates
        return False
    return True


def typed(key: str, text: str) -> Any:
    """The text parsed as the key's type; the text itself if it does not fit."""
    if key not in Config.model_fields:
        return text
    if value_type(key) is dict:
        table = parse_table(text)
        return text if table is None else table
    return _list(key, text) if value_type(key) is list else _scalar(value_type(key), text)


def _scalar(kind: type, text: str) -> Any:
    if kind is bool:
        return BOOLEANS.get(text.lower(), text)
    if kind is str:
        unquoted = parse_toml_value(text) if text[:1] in ("'", '"') else None
        return unquoted if isinstance(unquoted, str) else text
    try:
        return kind(text)
    except ValueError:
        return text


def _list(key: str, text: str) -> list[Any]:
    if text.startswith("["):
        parsed = parse_toml_value(text)
        if isinstance(parsed, list):
            return parsed
        text = text.removeprefix("[").removesuffix("]")  # the shell removed the quotes: [a,b]
    kind = element_type(key)
    return [_scalar(kind, item.strip()) for item in text.split(",") if item.strip()]
