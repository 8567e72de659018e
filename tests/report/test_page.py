"""Whole pages: hostile texts stay text, the limits of size and time, and a real browser."""

import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.report.make import make_page
from grpo_cli.report.page import is_page
from grpo_cli.report.read import read_run
from tests.support.report_runs import HOSTILE, completion, judged, large_run, run_of
from tests.support.run_logs import steps

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MOST_SECONDS = 15.0  # 3 s are promised for an idle machine


class Elements(HTMLParser):
    """The elements of a page, and its addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def hostile_page(folder: Path) -> str:
    log = [judged(0, "1000"), *steps(8), judged(8, "1111")]
    log[3] |= {"flags": HOSTILE, "<script>alert(2)</script>": 1.0}
    lines = tuple(completion(1 + i, t, prompt=t, answer=t, stop_reason=t) for i, t in enumerate(HOSTILE))
    return make_page([run_of(folder, log, lines, dataset=HOSTILE[0])])


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def test_a_page_asks_for_nothing_and_runs_only_our_scripts(tmp_path: Path) -> None:
    tags = Elements(hostile_page(tmp_path)).tags
    assert [attributes for tag, attributes in tags if tag == "script"] == [
        {"type": "application/json", "id": "data"}, {}, {},
    ]  # fmt: skip
    assert not {tag for tag, _ in tags} & {"img", "link", "iframe", "object", "embed", "base", "textarea"}
    assert {a["href"] for tag, a in tags if tag == "a"} <= {
        "#findings", "#curves", "#completions", "#settings", "#comparison",
    }  # fmt: skip
    assert not [a for _, a in tags if "style" in a or "src" in a or any(name.startswith("on") for name in a)]
    (policy,) = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; script-src 'sha256-")


def test_the_data_are_whole(tmp_path: Path) -> None:
    data = data_of(hostile_page(tmp_path))
    text = data["completions"]["fields"].index("text")
    assert [row[text] for row in data["completions"]["rows"]][:4] == HOSTILE[:4]
    assert data["marks"][0]["step"] == 3
    assert data["charts"][0]["title"] == "Accuracy"


def test_parts_that_are_text_are_escaped(tmp_path: Path) -> None:
    page = hostile_page(tmp_path)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page  # a flag, and the dataset's name
    assert "<script>alert" not in page
    assert "\x1b" not in page


def test_findings_of_the_doctor_with_their_cure(tmp_path: Path) -> None:
    page = make_page([run_of(tmp_path, steps(20, reward_mean=0.0, zero_std_fraction=1.0))])
    assert "Nothing was learned: in all of the groups all rewards were equal" in page
    assert "rewards-zero" in page
    assert "<b>Fix:</b>" in page


def test_a_comparison_has_a_table_of_keys(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / name, [*steps(2), judged(2, "01")], seed=seed)
        for name, seed in (("a", 1), ("b", 2))
    ]
    page = make_page(runs)
    assert '<th scope="row"><code>seed</code></th><td><code>1</code></td><td><code>2</code></td>' in page
    assert "b against a: no significant difference, +0.0 points" in page


def test_a_page_that_reloads_says_so(tmp_path: Path) -> None:
    run = run_of(tmp_path, steps(2))
    assert (data_of(make_page([run], refresh=30))["refresh"], data_of(make_page([run]))["refresh"]) == (30, 0)
    assert "reload every 30 s" in make_page([run], refresh=30)


def test_earlier_pages_are_recognized(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(make_page([run_of(tmp_path / "run", steps(1))]))
    (tmp_path / "b.html").write_text("<html>mine</html>")
    assert (is_page(tmp_path / "a.html"), is_page(tmp_path / "b.html")) == (True, False)


def test_a_long_run_fits_into_three_megabytes_and_seconds(tmp_path: Path) -> None:
    folder = large_run(tmp_path / "long", count=1000, per_step=4)
    started = time.monotonic()
    page = make_page([read_run(folder)])
    assert time.monotonic() - started < MOST_SECONDS
    assert len(page.encode()) <= 3_000_000
    data = data_of(page)
    assert len(data["completions"]["rows"]) == 4000
    assert len(data["charts"][1]["x"]) == 1000


def test_a_longer_run_is_thinned_with_a_word(tmp_path: Path) -> None:
    page = make_page([read_run(large_run(tmp_path / "longer", count=2001, per_step=4, length=500))])
    assert len(page.encode()) <= 3_000_000
    shown = len(data_of(page)["completions"]["rows"])
    assert 1000 < shown < 8004
    assert f"The page holds {shown:,} of 8,004 logged completions" in page
    assert "longer: 2,001 steps: the curves show some of them" in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_draws_the_curves_and_shows_completions_as_text(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(hostile_page(tmp_path / "run"))
    words = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
        (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    tags = Elements(done.stdout).tags
    charts = [a for _, a in tags if a.get("class") == "chart"]
    plots = [a for _, a in tags if a.get("role") == "img"]
    assert sum(tag == "canvas" for tag, _ in tags) == len(charts) == len(plots) > 8
    assert {a["tabindex"] for a in plots} == {"0"}
    assert plots[0]["aria-label"] == (
        "Accuracy: accuracy from 25.0 % to 100.0 %, steps 0 to 8. Arrow keys read values."
    )
    assert sum(str(a.get("class", "")).split(" ")[0] == "card" for _, a in tags) == len(HOSTILE)
    assert '<pre tabindex="0">&lt;script&gt;alert(1)&lt;/script&gt;</pre>' in done.stdout
    assert sum(tag == "script" for tag, _ in tags) == 3
