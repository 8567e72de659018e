"""Values in a row: lookup by path, display in errors, and checks for text that no tokenizer can read."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final

from grpo_cli.errors import DataError

MISSING: Final = object()  # no value at all, not even null

# Usual names of the columns in datasets, most common first.
USUAL_NAMES = {
    "prompt_column": (
        "prompt", "question", "problem", "messages", "conversations", "conversation", "instruction", "query",
        "input", "text",
    ),
    "answer_column": (
        "answer", "solution", "ground_truth", "final_answer", "expected_answer", "target", "label", "output",
        "response", "completion", "gold",
    ),
}  # fmt: skip


def lookup(values: dict[str, Any], path: str) -> Any:
    """The value of a column or of a path into one, such as `reward_model.ground_truth`; MISSING if absent.

    Text on the way is parsed as JSON, as some datasets store objects that way; the value itself never is. A
    column whose own name contains dots has priority over a path.
    """
    if path in values:
        return values[path]
    name, dot, rest = path.partition(".")
    if not dot or name not in values:
        return MISSING
    inner = decoded(values[name])
    if isinstance(inner, list) and rest.partition(".")[0].isdigit():
        inner = {str(index): item for index, item in enumerate(inner)}
    return lookup(inner, rest) if isinstance(inner, dict) else MISSING


def decoded(value: Any) -> Any:
    """The object in a JSON text; any other value unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def column_paths(values: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Column names, each followed by the paths inside it."""
    paths = []
    for name in names:
        paths.append(name)
        inner = decoded(values.get(name))
        if isinstance(inner, dict):
            paths += [f"{name}.{key}" for key in inner]
    return paths


def nearest_column(key: str, wanted: str, existing: list[str]) -> str | None:
    """The column that was probably meant: a similar name, or a usual name for the key.

    A usual name for the other key is never suggested: an answer is not a prompt.
    """
    others = {name for other, names in USUAL_NAMES.items() if other != key for name in names}
    fitting = [path for path in existing if path.rpartition(".")[2].lower() not in others]
    near = get_close_matches(wanted, fitting, n=1)
    usual = [path for name in USUAL_NAMES[key] for path in fitting if path.rpartition(".")[2].lower() == name]
    return next(iter([*near, *usual]), None)


def short(value: Any) -> str:
    """The value for an error message, truncated to 80 characters."""
    text = "missing or null" if value is None or value is MISSING else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def check_text(value: Any, what: str, place: str) -> None:
    """Raise DataError for a lone surrogate in a text at any depth: JSON can express it, UTF-8 cannot."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"Half of a character: {what} in {place} has {value[error.start]!r}, "
                f"its character {error.start + 1}",
                "the text was cut inside a character such as an emoji; write it again, or remove the row",
            ) from error
    elif isinstance(value, dict):
        for key, item in value.items():
            check_text(key, what, place)
            check_text(item, what, place)
    elif isinstance(value, list | tuple):
        for item in value:
            check_text(item, what, place)
