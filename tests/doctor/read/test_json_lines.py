"""Lines of JSON: other lines are left out, and only a line feed ends one."""

from pathlib import Path

import pytest

from grpo_cli.doctor.read import json_lines
from grpo_cli.doctor.read.json_lines import json_object, read_lines, texts


def test_lines_that_are_no_objects_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"step": 1}\n\n  \n[2]\n3\n{"step": 4}\n{"step": 5')
    assert read_lines(tmp_path / "log") == [{"step": 1}, {"step": 4}]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"text": "a\u2028b\u0085c"}\n{"text": "d"}\n')
    assert read_lines(tmp_path / "log") == [{"text": "a\u2028b\u0085c"}, {"text": "d"}]


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"text": "\xff"}\r\n\xff\n')
    assert texts(tmp_path / "log") == ['{"text": "\ufffd"}\r', "\ufffd"]
    assert read_lines(tmp_path / "log") == [{"text": "\ufffd"}]


def test_a_file_that_cannot_be_read_has_no_lines(tmp_path: Path) -> None:
    assert texts(tmp_path / "missing") == []
    assert read_lines(tmp_path) == []


def test_no_more_is_read_than_the_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text('{"a": 1}\n{"b": 2}\n')
    monkeypatch.setattr(json_lines, "MOST_BYTES", 12)
    assert texts(tmp_path / "log") == ['{"a": 1}', '{"b']
    assert read_lines(tmp_path / "log") == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "found"), [('{"a": 1}', {"a": 1}), ("[1]", None), ('{"a": ', None), ("", None)]
)
def test_an_object_in_a_text(text: str, found: dict[str, int] | None) -> None:
    assert json_object(text) == found
