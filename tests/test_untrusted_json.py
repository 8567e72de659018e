"""Reading JSON of strangers: bounds, schemas, and words that continue from the file's name."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from grpo_cli.untrusted_json import (
    DEEPEST,
    DamagedFile,
    Schema,
    check_regular,
    parse,
    parse_as,
    parse_object,
    read_as,
    read_bytes,
    shown,
)


class Inner(Schema):
    rank: Annotated[int, Field(ge=1)]
    scale: float = 1.0


class Outer(Schema):
    inner: Inner
    files: dict[str, int] = Field(default_factory=dict)


@dataclass
class Plain:
    step: int = 0


def refusal(kind: Any, text: str | bytes) -> str:
    with pytest.raises(DamagedFile) as error:
        parse_as(kind, text)
    return str(error.value)


def test_a_schema_and_a_dataclass() -> None:
    assert parse_as(Outer, '{"inner": {"rank": 8, "other": null}}') == Outer(inner=Inner(rank=8))
    assert parse_as(Plain, '{"step": 3}') == Plain(3)
    assert parse_as(list[int], b"[1, 2]") == [1, 2]
    assert parse_as(Plain, '{"step": 3, "step": 4}') == Plain(4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "has no `inner`"),
        ('{"inner": {}}', "has no `inner.rank`"),
        ('{"inner": {"rank": "8"}}', 'has `inner.rank` = "8": it must be a valid integer'),
        ('{"inner": {"rank": true}}', "has `inner.rank` = true: it must be a valid integer"),
        ('{"inner": {"rank": 0}}', "has `inner.rank` = 0: it must be greater than or equal to 1"),
        ('{"inner": {"rank": 1, "scale": NaN}}', "has `inner.scale` = NaN: it must be a finite number"),
        ('{"inner": {"rank": 1, "scale": 1e999}}', "has `inner.scale` = Infinity: it must be a finite number"),  # noqa: E501
        ('{"inner": {"rank": 1}, "files": {"\\u001b]0;x\\u0007": "a"}}',
         'has `files.␛]0;x␇` = "a": it must be a valid integer'),
        ("[]", "holds []: it must be an object"),
        ('{"inner": {"rank": 1', "is not JSON: EOF while parsing an object at line 1 column 20"),
        ("[" * 100_000, "is not JSON: recursion limit exceeded at line 1 column 202"),
    ],
)  # fmt: skip
def test_refusals_name_field_and_value(text: str, said: str) -> None:
    assert refusal(Outer, text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff", "is not JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        ("[" * 100_000, "is not JSON: maximum recursion depth exceeded while decoding a JSON array"),
        ("[" * 66 + "]" * 66, "is nested more than 64 levels deep"),
        ("9" * 41, "holds a number of 41 digits"),
        ("9" * 5000, "holds a number of 5000 digits"),
        ("", "is not JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_bounds(text: str | bytes, said: str) -> None:
    with pytest.raises(DamagedFile) as error:
        parse(text)
    assert str(error.value).startswith(said)


def test_the_bounds_are_reached() -> None:
    deep = parse("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))
    assert deep[0][0] != []
    assert parse("1" + "0" * 30) == 10**30


def test_an_object_is_wanted() -> None:
    assert parse_object('{"a": 1}') == {"a": 1}
    with pytest.raises(DamagedFile, match="is not a JSON object"):
        parse_object("[1]")


def test_only_files_of_a_sensible_size(tmp_path: Path) -> None:
    file, pipe = tmp_path / "x.json", tmp_path / "pipe"
    file.write_bytes(b"[1, 2]")
    assert read_bytes(file, 6) == b"[1, 2]"
    with pytest.raises(DamagedFile, match="has 6 bytes, more than such a file can have"):
        read_as(list[int], file, 5)
    os.mkfifo(pipe)
    for odd in (pipe, Path("/dev/zero")):
        with pytest.raises(DamagedFile, match="is a pipe or a device, not a file"):
            read_bytes(odd)
    with pytest.raises(DamagedFile, match="cannot be a file's name"):
        check_regular(tmp_path / "a\0b")
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")


def test_values_are_shown_in_ascii_and_cut() -> None:
    assert shown("a\x1b[31m‮") == '"a\\u001b[31m\\u202e"'
    assert shown(["x" * 200]) == '["' + "x" * 78 + "..."
    assert len(shown(10**300)) == 83
