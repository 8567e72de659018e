"""Values in a row: found by a path, shown in an error, checked for texts that no tokenizer can read."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final

from grpo_cli.errors import DataError

MISSING: Final = object()  # there is no such value, not even null

# Names that the columns have in datasets people use, the likeliest first.
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
    """The value of a column, or of a path into one: `reward_model.ground_truth`; MISSING for none.

    A text on the way is read as JSON, as some datasets keep their objects; the value itself never is. A
    column whose own name has dots in it goes before a path.
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
    """An object that is kept as its JSON text; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def column_paths(values: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Names of columns, each followed by the paths of what is in it."""
    paths = []
    for name in names:
        paths.append(name)
        inner = decoded(values.get(name))
        if isinstance(inner, dict):
            paths += [f"{name}.{key}" for key in inner]
    return paths


def nearest_column(key: str, wanted: str, existing: list[str]) -> str | None:
    """The column that was probably meant: a name like it, or one that such columns usually have.

    A name that is usual for the other key is not suggested: no answer is a prompt.
    """
    others = {name for other, names in USUAL_NAMES.items() if other != key for name in names}
    fitting = [path for path in existing if path.rpartition(".")[2].lower() not in others]
    near = get_close_matches(wanted, fitting, n=1)
    usual = [path for name in USUAL_NAMES[key] for path in fitting if path.rpartition(".")[2].lower() == name]
    return next(iter([*near, *usual]), None)


def short(value: Any) -> str:
    """The value for an error's text, cut after 80 characters."""
    text = "missing or null" if value is None or value is MISSING else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def check_text(value: Any, what: str, place: str) -> None:
    """Raise DataError for half of a character in a text, at any depth: JSON can spell it, UTF-8 cannot."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"Half of a character: {what} in {place} has {value[error.start]!r}, "
                f"its character {error.start + 1}",
                "a text was cut within a character, as an emoji; write the text again, or remove the row",
            ) from error
    elif isinstance(value, dict):
        for key, item in value.items():
            check_text(key, what, place)
            check_text(item, what, place)
    elif isinstance(value, list | tuple):
        for item in value:
            check_text(item, what, place)
