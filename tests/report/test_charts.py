"""Curves: which are drawn, their points, marks, and how long runs are thinned."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.report.charts import MOST_POINTS, charts_of, thinned
from tests.support.report_runs import judged, run_of
from tests.support.run_logs import steps


def by_title(charts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {chart["title"]: chart for chart in charts}


def test_accuracy_has_its_interval_in_percent(tmp_path: Path) -> None:
    log = [judged(0, "1100000000"), *steps(2), judged(2, "1111111100")]
    chart = by_title(charts_of([run_of(tmp_path, log)]))["Accuracy"]
    (series,) = chart["series"]
    assert (chart["x"], chart["unit"]) == ([0, 2], "%")
    assert (series["label"], series["y"]) == ("accuracy", [20.0, 80.0])
    assert (series["low"][1], series["high"][1]) == (
        pytest.approx(49.02, abs=0.01),
        pytest.approx(94.33, abs=0.01),
    )


def test_metrics_share_charts_and_unknown_ones_get_their_own(tmp_path: Path) -> None:
    log = steps(2, **{"rewards/format": 0.5, "tries": lambda step: 0.1 * step, "note": "text"})
    charts = by_title(charts_of([run_of(tmp_path, log)]))
    assert [s["label"] for s in charts["Reward"]["series"]] == ["mean reward", "correctness", "format"]
    assert charts["Groups that teach"]["series"][0]["y"] == [70.0, 70.0]  # 1 − zero_std_fraction
    assert charts["tries"]["series"][0]["y"] == [0.1, 0.2]
    assert not charts.keys() & {"note", "step", "KL"}  # kl is null throughout


def test_several_runs_share_one_axis(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", steps(2)), run_of(tmp_path / "b", steps(3, reward_mean=2.0))]
    chart = by_title(charts_of(runs))["Reward"]
    assert chart["x"] == [1, 2, 3]
    assert [(s["label"], s["y"]) for s in chart["series"]] == [
        ("a", [1.0, 1.0, None]),
        ("b", [2.0, 2.0, 2.0]),
    ]


def test_long_runs_are_thinned_but_keep_what_is_marked() -> None:
    lines = [{"step": step, "loss": 0.1} for step in range(5 * MOST_POINTS + 1)]
    lines[3]["flags"] = ["grad_norm > 10"]
    kept = [line["step"] for line in thinned(lines)]
    assert kept[:5] == [0, 3, 6, 12, 18]
    assert kept[-1] == 5 * MOST_POINTS
    assert len(kept) <= MOST_POINTS
