"""`grpo report` as it is typed."""

from pathlib import Path

import pytest

from tests.support.commands import grpo
from tests.support.report_runs import judged, run_of
from tests.support.run_logs import steps


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        run_of(tmp_path / "outputs" / name, [judged(0, "0011"), *steps(2), judged(2, "0111")])


def test_the_page_of_a_run_and_its_path() -> None:
    done = grpo("report", "outputs/a")
    assert (done.exit_code, done.stdout) == (0, "outputs/a/report.html\n")
    assert "Accuracy rose from 50.0 to 75.0 %" in Path("outputs/a/report.html").read_text()
    assert (
        grpo("report", "outputs/a/final").stdout == "outputs/a/report.html\n"
    )  # an earlier page is replaced


def test_several_runs_and_another_file() -> None:
    assert grpo("report", "outputs/a", "outputs/b").stdout == "report.html\n"
    assert grpo("report", "outputs/a", "--output", "x.html").stdout == "x.html\n"
    assert "Keys that differ" in Path("report.html").read_text()


def test_a_file_of_another_kind_stays() -> None:
    Path("x.html").write_text("mine")
    refused = grpo("report", "outputs/a", "--output", "x.html")
    assert (refused.exit_code, Path("x.html").read_text()) == (2, "mine")
    assert "Output file exists: x.html" in refused.stderr
    assert grpo("report", "outputs/a", "--output", "x.html", "--force").exit_code == 0


def test_a_link_in_a_received_folder_leads_no_write_out_of_it() -> None:
    Path("target").write_text("")
    Path("outputs/a/report.html").symlink_to(Path("target").absolute())
    assert grpo("report", "outputs/a").exit_code == 0
    assert Path("target").read_text() == ""
    assert not Path("outputs/a/report.html").is_symlink()


def test_errors() -> None:
    missing = grpo("report", "outputs/c")
    assert (missing.exit_code, "Run not found: outputs/c" in missing.stderr) == (1, True)
    many = grpo("report", *["outputs/a"] * 9)
    assert (many.exit_code, "9 runs are too many for one page" in many.stderr) == (2, True)


def test_the_page_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)))
    done = grpo("report", "outputs/a", "--open")
    assert opened == [Path("outputs/a/report.html").absolute().as_uri()]
    assert (done.exit_code, "no browser was found" in done.stderr) == (0, True)
