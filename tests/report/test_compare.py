"""Several runs side by side: results, and paired tests only where the problems are the same."""

from pathlib import Path

from grpo_cli.report.compare import pairs_of, results_of, tiles_of
from tests.support.report_runs import judged, run_of
from tests.support.run_logs import steps


def test_results_side_by_side(tmp_path: Path) -> None:
    first = run_of(tmp_path / "a", [judged(0, "10"), *steps(2), judged(2, "11")])
    second = run_of(tmp_path / "b", steps(3, reward_mean=0.25))
    rows = {row["name"]: row["values"] for row in results_of([first, second])}
    assert rows["accuracy after"] == ["100.0 %", "–"]
    assert rows["best accuracy"] == ["100.0 % (step 2)", "–"]
    assert rows["mean reward, last step"] == ["1", "0.25"]
    assert rows["steps"] == ["2", "3"]
    assert rows["groups that teach"] == ["70.0 %", "70.0 %"]


def test_a_paired_comparison(tmp_path: Path) -> None:
    first = run_of(tmp_path / "a", [*steps(1), judged(1, "0" * 8 + "1" * 8)])
    second = run_of(tmp_path / "b", [*steps(1), judged(1, "1" * 16)])
    (sentence,) = pairs_of([first, second])
    assert sentence.startswith("b against a: better, +50.0 points (95 %: +")
    assert sentence.endswith("; p = 0.008)")  # 2 · (1/2)^8


def test_other_problems_are_not_paired(tmp_path: Path) -> None:
    first = run_of(tmp_path / "a", [*steps(1), judged(1, "0011")])
    for name, right, settings in (("b", "00111", {}), ("c", "0011", {"eval_split": "train"})):
        other = run_of(tmp_path / name, [*steps(1), judged(1, right)], **settings)
        assert pairs_of([first, other]) == []


def test_the_numbers_on_top(tmp_path: Path) -> None:
    log = [judged(0, "1000"), *steps(6, reward_mean=lambda step: float(step)), judged(6, "1110")]
    assert dict(tiles_of(run_of(tmp_path, log))) == {
        "accuracy, 4 problems": "25.0 → 75.0 %",
        "reward, first → last third": "1.50 → 4.00",
        "groups that teach": "70.0 %",
        "steps": "6",
        "time": "1 min 00 s",
        "tokens/s": "100",
        "peak memory": "4.00 GB",
    }
