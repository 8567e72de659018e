"""Findings about progress, from logs written by hand: a fall of accuracy or reward, and a flat accuracy."""

from pathlib import Path

import pytest

from grpo_cli.doctor.checks.run.progress import interval, rise
from tests.support.run_logs import (
    TroubleCase,
    case_name,
    check_trouble,
    evaluation,
    examine,
    steps,
    written,
)

CASES: list[TroubleCase] = [
    (
        "collapse",
        [evaluation(0, 0.4), *steps(20), evaluation(10, 0.8), evaluation(20, 0.5)],
        {},
        "warning",
        "accuracy 40.0 % (33 to 47; step 0), then 80.0 % (74 to 85; step 10), then 50.0 % (43 to 57; ",
        "kl_coeff = 0.04",
    ),
    (
        "collapse",
        steps(15, reward_mean=lambda s: (1.5 if s <= 5 else 0.5) + 0.01 * (s % 2)),
        {"kl_coeff": 0.1},
        "warning",
        "mean reward 1.51 at the start, 0.51 at the end",
        "learning_rate = 2e-07",
    ),
    (
        "accuracy-flat",
        [evaluation(0, 0.4), *steps(30), evaluation(15, 0.42), evaluation(30, 0.45)],
        {},
        "warning",
        "accuracy 40.0 % (33 to 47; step 0), then 45.0 % (38 to 52; step 30): no change beyond its interval",
        "--samples 400 eval_samples = 400",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_each_trouble_is_told_with_its_numbers_and_its_cure(tmp_path: Path, case: TroubleCase) -> None:
    check_trouble(tmp_path, case)


def test_a_flat_accuracy_is_news_from_twenty_steps_on(tmp_path: Path) -> None:
    """Three evaluations, 320 completions a step: only the steps are few."""
    for last, severity in ((19, "skipped"), (20, "warning")):
        evaluated = [evaluation(step, 0.4) for step in (0, 10, last)]
        settings = {"batch_size": 20, "num_generations": 16}
        found = examine(written(tmp_path, [*evaluated, *steps(last)], **settings))
        assert found["accuracy-flat"].severity == severity


def test_a_best_checkpoint_that_is_there_is_gone_back_to(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-10").mkdir()
    lines = [evaluation(0, 0.4), *steps(20), evaluation(10, 0.8), evaluation(20, 0.1)]
    finding = examine(written(tmp_path, lines))["collapse"]
    assert finding.severity == "error"
    assert finding.commands[-1] == f"grpo resume {tmp_path}/checkpoint-10 --set learning_rate=2e-07"


def test_intervals_and_differences_against_numbers_by_hand() -> None:
    low, high = interval((0, 0.8, 10))
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    # variances 1 and 1 of three each: 4 / sqrt(1/3 + 1/3)
    assert rise([1, 2, 3], [5, 6, 7]) == pytest.approx(4 / (2 / 3) ** 0.5)
    assert rise([1, 1], [2, 2]) == 100.0
    assert rise([1, 1], [1, 1]) == 0.0
