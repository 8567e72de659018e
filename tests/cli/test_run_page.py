"""The page of a run while it trains: when it is written, and that a failure never ends the run."""

from dataclasses import replace
from pathlib import Path

import pytest

from grpo_cli.cli.run_page import REFRESH, RunPage, with_page
from grpo_cli.engine.events import Event, Notice
from tests.support.recorded_run import FINISHED, STARTED, step
from tests.support.report_runs import judged, run_of
from tests.support.run_logs import steps


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return run_of(tmp_path / "run", [judged(0, "0011"), *steps(4), judged(4, "0111")]).folder


def heard(folder: Path, every: int, *events: Event) -> tuple[RunPage, list[Event]]:
    told: list[Event] = []
    page = RunPage(told.append)
    for event in (replace(STARTED, run_dir=folder, report_every=every), *events):
        page(event)
    return page, told


def test_the_page_is_written_every_so_many_steps_and_reloads(folder: Path) -> None:
    page, told = heard(folder, 2, step(1, 0.5))
    assert not (folder / "report.html").exists()
    page(step(2, 0.5))
    assert f'"refresh":{REFRESH}' in (folder / "report.html").read_text()
    page(FINISHED)
    assert '"refresh":0' in (folder / "report.html").read_text()
    assert (page.path, told) == (folder / "report.html", [])


def test_pages_take_at_most_a_hundredth_of_the_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = 0.0, []

    def write(_: Path, refresh: int) -> Path:
        nonlocal now
        now += 0.5  # seconds that a page takes
        written.append((now, refresh))
        return folder / "report.html"

    monkeypatch.setattr("grpo_cli.cli.run_page.written_page", write)
    page, _ = heard(folder, 1)
    page.clock = lambda: now
    for number in range(1, 121):
        now += 1.0
        page(step(number, 0.5))
    assert written == [(1.5, REFRESH), (52.0, REFRESH), (102.5, REFRESH)]  # 50 s apart: 0.5 s in 50
    page(FINISHED)
    assert written[-1][1] == 0


def test_by_default_it_is_written_at_the_end_only(folder: Path) -> None:
    page, _ = heard(folder, 0, step(1, 0.5), step(2, 0.5))
    assert page.path is None
    page.close()  # interrupted
    assert "Accuracy rose from 50.0 to 75.0 %" in (folder / "report.html").read_text()


def test_a_run_without_a_log_has_no_page(tmp_path: Path) -> None:
    page, told = heard(tmp_path, 1, step(1, 0.5), FINISHED)
    assert (page.path, told, list(tmp_path.iterdir())) == (None, [], [])


def test_a_page_that_cannot_be_written_is_told_once(folder: Path) -> None:
    (folder / "report.html").mkdir()
    page, told = heard(folder, 1, step(1, 0.5), step(2, 0.5), FINISHED)
    (notice,) = told
    assert isinstance(notice, Notice)
    assert notice.text.startswith("the page of the run cannot be written: IsADirectoryError: ")
    assert page.path is None


def test_a_display_that_fails_does_not_cost_the_page(folder: Path) -> None:
    page = RunPage(lambda _: None)

    def broken(event: Event) -> None:
        raise ValueError(event)

    with pytest.raises(ValueError, match="RunStarted"):
        with_page(broken, page)(replace(STARTED, run_dir=folder))
    page.close()
    assert page.path == folder / "report.html"
