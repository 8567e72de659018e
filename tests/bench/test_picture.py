"""README's picture: what is drawn of a run's events, as a file that loads nothing from elsewhere."""

import html
import re
from pathlib import Path

import pytest

from grpo_cli.engine.events import CheckpointSaved, EvaluationDone, Notice
from tests.bench.picture import COMMAND, Recorder, recording_console, svg
from tests.support.recorded_run import AFTER, BEFORE, FINISHED, RUN, STARTED


@pytest.fixture
def picture(monkeypatch: pytest.MonkeyPatch) -> str:
    """The picture of a short run."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    display = Recorder(recording_console())
    saved = CheckpointSaved(step=3, path=RUN / "final")
    evaluations = [EvaluationDone(line["step"], line) for line in (BEFORE, AFTER)]
    for event in (STARTED, Notice("a note"), *evaluations, saved, FINISHED):
        display(event)
    return svg(display.console, display.progress)


def test_the_command_the_display_and_the_result_stand_in_their_order(picture: str) -> None:
    lines = re.findall(r"<text class=\"run-r\d+\"[^>]*>(.*?)</text>", picture)
    text = html.unescape(" ".join(lines)).replace("\N{NO-BREAK SPACE}", " ")
    places = [text.index(part) for part in (f"$ {COMMAND}", "a note", "saved", "tiny", "Done: 3 steps")]
    assert places == sorted(places)
    assert "91.5 % (183/200)" in text


def test_it_loads_nothing(picture: str) -> None:
    assert re.findall(r"url\((?!#)|@font-face|<script|<image", picture) == []


def test_the_committed_picture_is_one_of_these() -> None:
    committed = Path(__file__).parents[2] / ".github/run.svg"
    if not committed.is_file():
        pytest.skip("a source distribution has no .github")
    text = committed.read_text(encoding="utf-8")
    assert re.findall(r"url\((?!#)|@font-face|<script|<image", text) == []
    assert "smoke_test.toml" in text
