"""What the schema says of a key: its Python type, its choices, its group, its TOML spelling."""

import difflib
import tomllib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

import tomli_w

from grpo_cli.config.schema import SUPERSEDED, Config

LONGEST = 120  # characters of what was written that a message shows


def value_type(key: str) -> type:
    """The Python type of a key's value: str, int, float, bool or list."""
    return _plain_type(Config.model_fields[key].annotation)


def element_type(key: str) -> type:
    """The Python type of the items of a list key, of the value itself for any other key."""
    annotation = Config.model_fields[key].annotation
    return _plain_type(get_args(annotation)[0] if value_type(key) is list else annotation)


def _plain_type(annotation: Any) -> type:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0])
    return get_origin(annotation) or annotation


def choices(key: str) -> tuple[Any, ...]:
    """The values a key may have, where they are few and named; empty for any other key."""
    annotation = Config.model_fields[key].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def description(key: str) -> str:
    """The key's description on one line."""
    return " ".join((Config.model_fields[key].description or "").split())


def default(key: str) -> Any:
    """The key's default value."""
    return Config.model_fields[key].get_default()


def groups() -> dict[str, list[str]]:
    """The keys under the headings of their groups, in the order of schema.py."""
    return {group.__doc__ or "": list(group.__annotations__) for group in reversed(Config.__bases__)}


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `word` in any case, or None where none is."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    close.sort(key=lambda match: sorted(match) != sorted(word.lower()))  # swapped letters before others
    return by_lower[close[0]] if close else None


def nearest_key(word: str) -> str | None:
    """The configuration key most like `word`; a superseded name leads to ours."""
    if len(word) > LONGEST:
        return None
    found = nearest(word, [*Config.model_fields, *SUPERSEDED])
    return SUPERSEDED.get(found, found) if found else None


def short(text: str) -> str:
    """What was written, as far as a message shows it."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def toml_value(value: Any) -> str:
    """A value in TOML's spelling, on one line."""
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").rstrip("\n")


def parse_toml_value(text: str) -> Any:
    """The value that `text` spells in TOML, or None where it spells none."""
    try:
        table = tomllib.loads(f"v = {text}")
    except (ValueError, RecursionError):
        return None
    return table["v"] if len(table) == 1 else None  # a line break in the text could add keys
