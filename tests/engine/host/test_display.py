"""The display sleeps where the run may put it to sleep, on a Mac only; by a stand-in for `pmset`."""

import os
from pathlib import Path

import pytest

from grpo_cli.engine import setup
from grpo_cli.engine.failures import GPU_TIMEOUT, INTERACTIVITY, MEMORY
from grpo_cli.engine.host.display import OFFER, Display
from grpo_cli.engine.host.system import System
from tests.support.small_runs import small

PMSET = """#!/bin/sh
echo "$@" >> "$NOTES"
exit $CODE
"""


class Mac(System):
    system = "Darwin"


class Linux(System):
    system = "Linux"


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The requests to `pmset`."""
    (tmp_path / "pmset").write_text(PMSET)
    (tmp_path / "pmset").chmod(0o755)
    for name, value in (("PATH", f"{tmp_path}:{os.environ['PATH']}"), ("CODE", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    (tmp_path / "notes").touch()
    return tmp_path / "notes"


def test_it_sleeps_if_the_run_may(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Display(sleeps=True, system=Mac()).rest()
    assert Display(sleeps=True, system=Mac()).after_interactivity() == "; the display was put to sleep"
    assert notes.read_text() == "displaysleepnow\n" * 2
    monkeypatch.setenv("CODE", "1")
    assert Display(sleeps=True, system=Mac()).after_interactivity() == OFFER


@pytest.mark.parametrize("display", [Display(False, Mac()), Display(True, Linux()), Display(False, Linux())])
def test_else_it_is_offered_and_left_alone(display: Display, notes: Path) -> None:
    assert not display.rest()
    assert display.after_interactivity() == OFFER
    assert notes.read_text() == ""


def test_a_run_offers_it_after_interactivity_only(tmp_path: Path) -> None:
    run = setup.prepare(small(tmp_path))
    assert run.advice_on(INTERACTIVITY) == OFFER
    assert run.advice_on(GPU_TIMEOUT) == ": `grpo doctor --explain gpu-timeout`"
    assert "batch_size = 1" in run.advice_on(MEMORY)
