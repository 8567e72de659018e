"""Notices about a user's code that does not return."""

import importlib.util
import threading
from pathlib import Path

import pytest

from grpo_cli.cli import stuck
from grpo_cli.cli.stuck import running_line, watched
from tests.support.waiting import wait_until

CODE = """
import threading
over = threading.Event()
def inner():
    over.wait()
def outer():
    inner()
"""


def test_the_innermost_line_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "waits.py"
    file.write_text(CODE)
    spec = importlib.util.spec_from_file_location("waits", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert running_line([file]) == ""
    thread = threading.Thread(target=module.outer)
    thread.start()
    try:
        wait_until(lambda: running_line([file]) != "", "the thread")
        assert running_line([file]) == "waits.py, line 5, in inner"
        assert running_line([tmp_path / "other.py"]) == ""
    finally:
        module.over.set()
        thread.join()
    assert running_line([file]) == ""


def test_an_interruption_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "stops.py"
    file.write_text("def respond():\n    raise KeyboardInterrupt\n")
    names: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    with pytest.raises(KeyboardInterrupt) as caught, watched([file]):
        names["respond"]()  # type: ignore[operator]
    assert caught.value.__notes__ == ["Your code was at stops.py, line 2, in respond."]


def test_a_notice_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "LOOK", 0.01)
    monkeypatch.setattr(stuck, "PATIENCE", 0.02)
    monkeypatch.setattr(stuck, "running_line", lambda _: "a.py, line 3, in respond")
    told: list[str] = []
    monkeypatch.setattr(stuck, "say", lambda _, text: told.append(text.plain))
    with watched([tmp_path / "a.py"]):
        wait_until(lambda: bool(told), "a notice")
    assert told[0] == "! a.py, line 3, in respond: your code has run for 0 s; Ctrl-C ends it"
