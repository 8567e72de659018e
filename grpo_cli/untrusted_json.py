"""Reading of untrusted JSON files: within size limits, and validated by a schema before use.

    class Manifest(Schema):
        step: Annotated[int, Field(ge=0)]

    read_as(Manifest, Path("manifest.json"))     # DamagedFile: has `step` = "x": it must be a valid integer

Only regular files are read (a pipe would block), up to `limit` bytes, with at most DEEPEST levels and
integers of at most DIGITS digits. Of duplicate keys the last one counts, as in all JSON readers used here.
NaN and Infinity are parsed, but schemas reject them.
"""

import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from grpo_cli.foreign_text import one_line

LARGEST_FILE = 64 << 20  # bytes; the largest known tokenizer.json has 35 MB
DEEPEST = 64  # levels; real files have fewer than 10, and code that walks them recurses once per level
DIGITS = 40  # transformers writes 10^30 for "no limit"
LONGEST_SHOWN = 80  # characters of a value in a message

T = TypeVar("T")
S = TypeVar("S", bound=BaseModel)


class DamagedFile(ValueError):
    """A file with invalid content; the text is a predicate that continues the file's name."""


class Schema(BaseModel):
    """Base of the schemas: strict types, finite numbers only; unknown keys are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore", frozen=True)


def read_as(kind: type[T], path: Path, limit: int = LARGEST_FILE) -> T:
    """A JSON file as a schema or dataclass. Raises DamagedFile for other content, OSError if unreadable."""
    return parse_as(kind, read_bytes(path, limit))


def parse_as(kind: type[T], content: bytes | str) -> T:
    """A JSON text as a schema, dataclass or type of `typing`; DamagedFile names the invalid field."""
    try:
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        raise DamagedFile(_told(error)) from error


def checked(schema: type[S], value: Any) -> S:
    """Validate a parsed value by a schema; DamagedFile names the invalid field and its value."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise DamagedFile(_told(error)) from error


def read_object(path: Path, limit: int = LARGEST_FILE) -> dict[str, Any]:
    """A file's JSON object. Raises DamagedFile for other content, OSError if unreadable."""
    return _object(read_json(path, limit))


def read_json(path: Path, limit: int = LARGEST_FILE) -> Any:
    """A file's JSON value. Raises DamagedFile for other content, OSError if unreadable."""
    return parse(read_bytes(path, limit))


def read_bytes(path: Path, limit: int = LARGEST_FILE) -> bytes:
    """A regular file's bytes. Raises DamagedFile for other files or above `limit`, OSError if unreadable."""
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DamagedFile(f"has {path.stat().st_size:,} bytes, more than such a file can have")
    return content


def check_regular(path: Path) -> None:
    """Raise DamagedFile for a pipe or a device, since reading it could block or never end."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL or half a character in its name
        raise DamagedFile(f"cannot be a file's name: {error}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder is an OSError already
        raise DamagedFile("is a pipe or a device, not a file")


def parse(content: bytes | str) -> Any:
    """The value of a JSON text. Raises DamagedFile for other content."""
    try:
        value = json.loads(content, parse_int=_integer)
    except DamagedFile:
        raise
    except (ValueError, RecursionError) as error:  # not JSON or not UTF-8; nested too deep
        raise DamagedFile(f"is not JSON: {error}") from error
    _check_depth(value, DEEPEST)
    return value


def parse_object(content: bytes | str) -> dict[str, Any]:
    """The object of a JSON text. Raises DamagedFile for other content."""
    return _object(parse(content))


def shown(value: Any) -> str:
    """A value for a message: as ASCII JSON, truncated to LONGEST_SHOWN characters."""
    value = value[: LONGEST_SHOWN + 1] if isinstance(value, str | list) else value
    text = json.dumps(value, default=repr)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def dotted(place: Sequence[str | int]) -> str:
    """The path to a value within a document as text: `files.model.safetensors.size`."""
    text = one_line(".".join(map(str, place)))
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"


def _told(error: ValidationError) -> str:
    """Pydantic's first error as a predicate that continues the file's name."""
    finding = error.errors(include_url=False)[0]
    kind, value, rule = finding["type"], finding["input"], finding["msg"]
    where = dotted(finding["loc"])
    if kind == "json_invalid":
        return f"is not JSON: {rule.removeprefix('Invalid JSON: ')}"
    if kind == "missing":
        return f"has no `{where}`"
    rule = rule.replace("Input should", "it must").replace("String should", "it must")
    return f"has `{where}` = {shown(value)}: {rule}" if where else f"holds {shown(value)}: {rule}"


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedFile("is not a JSON object")
    return value


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise DamagedFile(f"holds a number of {len(text)} digits")
    return int(text)


def _check_depth(value: Any, levels: int) -> None:
    if levels < 0:
        raise DamagedFile(f"is nested more than {DEEPEST} levels deep")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        if isinstance(item, dict | list):
            _check_depth(item, levels - 1)
