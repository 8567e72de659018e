"""What is remembered of a tracker: each step once, and a run that goes back and differs is a new one."""

from pathlib import Path

import pytest

from grpo_cli.trackers.memory import Memory

SENT = Memory(run_id="ab12", settings="s", step=45, evaluation=40, table=45)


def test_it_is_read_as_written(tmp_path: Path) -> None:
    SENT.write(tmp_path / "m.json")
    assert Memory.read(tmp_path / "m.json") == SENT


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"run_id": "../../x", "settings": "", "step": 1, "evaluation": 1, "table": 1}', "\x00"],
)
def test_a_damaged_one_is_empty(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    assert Memory.read(tmp_path / "m.json") == Memory()


def test_a_missing_folder_is_no_failure(tmp_path: Path) -> None:
    SENT.write(tmp_path / "none" / "m.json")
    assert Memory.read(tmp_path / "none" / "m.json") == Memory()


@pytest.mark.parametrize(
    ("step", "settings", "goes_on"),
    [(40, "s", True), (45, "s", True), (45, "other", True), (40, "other", False), (0, "s", False)],
)
def test_a_resumed_run(step: int, settings: str, goes_on: bool) -> None:
    memory = SENT.of_resumed(step, settings)
    assert memory.settings == settings
    assert (memory.run_id, memory.step) == (("ab12", 45) if goes_on else ("", -1))


def test_a_step_is_taken_once() -> None:
    memory = Memory(step=45)
    assert [memory.take("step", step) for step in (44, 45, 46, 46)] == [False, False, True, False]
    assert memory.take("table", 1) and memory.last == 46
