"""Schema lookups for one key: Python type, choices, default, group and TOML spelling."""

import difflib
import re
import tomllib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

import tomli_w

from grpo_cli.config.schema import SUPERSEDED, Config
from grpo_cli.untrusted_json import DamagedFile, parse_object

LONGEST = 120  # longest excerpt of a user's text in a message, in characters


def value_type(key: str) -> type:
    """The Python type of a key's value: str, int, float, bool, list or dict."""
    return _plain_type(Config.model_fields[key].annotation)


def element_type(key: str) -> type:
    """The Python type of a list key's items; for any other key, of the value itself."""
    annotation = Config.model_fields[key].annotation
    return _plain_type(get_args(annotation)[0] if value_type(key) is list else annotation)


def _plain_type(annotation: Any) -> type:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0])
    return get_origin(annotation) or annotation


def choices(key: str) -> tuple[Any, ...]:
    """The allowed values of a `Literal` key; empty for any other key."""
    annotation = Config.model_fields[key].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def description(key: str) -> str:
    """The key's description on one line."""
    return " ".join((Config.model_fields[key].description or "").split())


def default(key: str) -> Any:
    return Config.model_fields[key].get_default()


def groups() -> dict[str, list[str]]:
    """Group heading → its keys, in the order of keys.py."""
    return {group.__doc__ or "": list(group.__annotations__) for group in reversed(Config.__bases__)}


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The closest match to `word` among `candidates`, ignoring case, or None."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    close.sort(key=lambda match: sorted(match) != sorted(word.lower()))  # prefer swapped letters
    return by_lower[close[0]] if close else None


def nearest_key(word: str) -> str | None:
    """The configuration key closest to `word`; superseded names map to their successors."""
    if len(word) > LONGEST:
        return None
    found = nearest(word, [*Config.model_fields, *SUPERSEDED])
    return SUPERSEDED.get(found, found) if found else None


def short(text: str) -> str:
    """The text, truncated to LONGEST characters for a message."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def toml_value(value: Any) -> str:
    """The value as TOML, on one line."""
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").rstrip("\n")


def toml_key(key: str) -> str:
    """The key as TOML: quoted unless it consists of letters, digits, `_` and `-`."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def parse_table(text: str) -> dict[str, Any] | None:
    """The table that a text spells in TOML, `{ a = 1 }`, or in JSON, `{"a": 1}`; None for any other text."""
    if not text.startswith("{"):
        return None
    found = parse_toml_value(text)
    if found is None:
        try:
            found = parse_object(text)
            toml_value(found)  # TOML has no null
        except (DamagedFile, TypeError):
            return None
    return found if isinstance(found, dict) else None


def parse_toml_value(text: str) -> Any:
    """The value of a TOML expression, or None if `text` is not one."""
    try:
        table = tomllib.loads(f"v = {text}")
    except (ValueError, RecursionError):
        return None
    return table["v"] if len(table) == 1 else None  # a line break in the text could add keys
