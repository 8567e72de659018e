"""Whole pages: hostile texts stay text, the limits of size and time, and a real browser."""

import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine.run_dir.incidents import Incident, Incidents
from grpo_cli.report.make import make_page
from grpo_cli.report.page import is_page
from grpo_cli.report.read import read_run
from tests.support.browser import CHROMIUM, Browser, browser
from tests.support.kept_rollouts import kept
from tests.support.report_runs import HOSTILE, completion, judged, large_run, run_of
from tests.support.run_logs import steps

MOST_SECONDS = 3.0  # of the processor, which a busy machine does not stretch


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
        "#findings", "#curves", "#completions", "#settings", "#comparison", "#happened",
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
    started = time.process_time()
    page = make_page([read_run(folder)])
    assert time.process_time() - started < MOST_SECONDS
    assert len(page.encode()) <= 3_000_000
    data = data_of(page)
    assert len(data["completions"]["rows"]) == 4000
    assert len(data["charts"][1]["x"]) == 1000


def test_a_long_run_with_all_its_rollouts_fits_too(tmp_path: Path) -> None:
    folder = large_run(tmp_path / "long", count=1000, per_step=4)
    kept(folder, 1, groups=8, count=8)
    first = folder / "rollouts/step-000001.parquet"
    for step in range(2, 1001):
        (folder / f"rollouts/step-{step:06}.parquet").hardlink_to(first)
    started = time.process_time()
    page = make_page([read_run(folder)])
    assert time.process_time() - started < MOST_SECONDS
    assert len(page.encode()) <= 3_000_000
    assert "Whole groups, with their tokens, are shown of at most 60 steps" in page


def test_a_longer_run_is_thinned_with_a_word(tmp_path: Path) -> None:
    page = make_page([read_run(large_run(tmp_path / "longer", count=2001, per_step=4, length=500))])
    assert len(page.encode()) <= 3_000_000
    shown = len(data_of(page)["completions"]["rows"])
    assert 1000 < shown < 8004
    assert f"The page holds {shown:,} of 8,004 logged completions" in page
    assert "longer: 2,001 steps: the curves show some of them" in page


FOCUSABLE = """[...document.querySelectorAll(
  'a[href], button, input, select, summary, [tabindex="0"]')].filter((e) => e.checkVisibility()).length"""
VISITED = (
    "window.visited.add(document.activeElement), window.visited.delete(document.body), window.visited.size"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with browser(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.mark.slow
def test_a_browser_draws_the_curves_and_shows_completions_as_text(tmp_path: Path, chromium: Browser) -> None:
    page = tmp_path / "page.html"
    page.write_text(hostile_page(tmp_path / "run"))
    chromium.show(page)
    assert chromium.complaints == [] and set(chromium.requests) == {page.as_uri()}
    charts = chromium.ask("document.querySelectorAll('.chart').length")
    assert charts == chromium.ask("document.querySelectorAll('canvas').length") > 8
    assert chromium.ask("document.querySelector('[role=img]').ariaLabel") == (
        "Accuracy: accuracy from 25.0 % to 100.0 %, steps 0 to 8. Arrow keys read values."
    )
    texts = chromium.ask("[...document.querySelectorAll('.card pre')].map((e) => e.textContent)")
    assert len(texts) == len(HOSTILE) and texts[:4] == HOSTILE[:4]
    assert chromium.ask("document.scripts.length") == 3


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_keyboard_reaches_every_control(
    width: int, dark: bool, tmp_path: Path, chromium: Browser
) -> None:
    page = tmp_path / "page.html"
    page.write_text(page_with_groups(tmp_path / "run"))
    chromium.show(page, width=width, dark=dark)
    assert chromium.ask("document.documentElement.scrollWidth <= innerWidth")  # nothing is cut at the side
    paper = chromium.ask("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(21, 24, 28)" if dark else "rgb(251, 250, 247)")
    count = chromium.ask(f"window.visited = new Set(), {FOCUSABLE}")
    for _ in range(count):
        chromium.key("Tab")
        reached = chromium.ask(VISITED)
    assert reached == count > 20


@pytest.mark.slow
def test_tokens_are_colored_and_stay_one_text(tmp_path: Path, chromium: Browser) -> None:
    page = tmp_path / "page.html"
    page.write_text(page_with_groups(tmp_path / "run"))
    chromium.show(page)
    first = "document.querySelectorAll('.step .card pre')[1]"  # the first is of completions.jsonl
    plain = chromium.ask(f"{first}.innerHTML")
    chosen(chromium, "paint", "logprob")
    spans = f"[...{first}.querySelectorAll('.token')].map((e) => [e.textContent, e.className, e.title])"
    assert chromium.ask(spans) == [
        ["<answer>", "token p0", "probability 0.90, advantage 0.5"],
        ["3", "token p3", "probability 0.14, advantage 0.5"],
        ["</answer>", "token p0", "probability 1.00, advantage 0.5"],
    ]
    assert chromium.ask(f"getSelection().selectAllChildren({first}), String(getSelection())") == (
        "<answer>3</answer>"
    )
    legend = chromium.ask("document.getElementById('legend').textContent")
    assert legend.startswith("Probability with which the policy sampled each token: 0.9 and more")
    assert "6 of these 7 completions have their tokens in the log" in legend
    chosen(chromium, "paint", "advantage")
    assert chromium.ask(spans)[1][1] == "token more1"
    chosen(chromium, "paint", "")
    assert chromium.ask(f"{first}.innerHTML") == plain
    assert chromium.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("filter_name", "shown", "steps_shown"),
    [("all", 7, 3), ("right", 6, 2), ("wrong", 1, 0), ("cut", 1, 0), ("fooled", 1, 0)],
)
def test_completions_are_filtered(
    filter_name: str, shown: int, steps_shown: int, tmp_path: Path, chromium: Browser
) -> None:
    page = tmp_path / "page.html"
    page.write_text(page_with_groups(tmp_path / "run"))
    chromium.show(page)
    chosen(chromium, "filter", filter_name)
    assert chromium.ask("document.querySelectorAll('.card').length") == shown
    assert chromium.ask("document.querySelectorAll('.step').length") == steps_shown
    chosen(chromium, "search", "nowhere")
    assert chromium.ask("document.querySelectorAll('.card').length") == 0


def chosen(chromium: Browser, control: str, value: str) -> None:
    """Set a control to a value as a person would, and wait until the page has answered."""
    chromium.ask(
        f"new Promise((done) => {{ const e = document.getElementById({control!r}); e.value = {value!r}; "
        "e.dispatchEvent(new Event('input', {bubbles: true})); setTimeout(done, 250); })"
    )


def page_with_groups(folder: Path) -> str:
    """A page with two steps of rollouts, a logged completion, an incident and a flag."""
    for number in (2, 3):
        kept(folder, number, groups=1)
    Incidents(lambda: folder).record(Incident(kind="killed", step=2, done="resumed"))
    log = steps(4)
    log[3]["flags"] = ["KL above 1"]
    rewards = {"correctness": 0.0, "format": 2.0}
    wrong = completion(1, "<answer>4</answer>", stop_reason="length", reward=2.0, rewards=rewards)
    return make_page([run_of(folder, log, (wrong,))])
