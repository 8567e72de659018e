"""Findings about completions, from logs written by hand: too short, cut off, or repeated."""

from pathlib import Path

import pytest

from tests.support.run_logs import (
    TroubleCase,
    case_name,
    check_trouble,
    examine,
    steps,
    written,
)

CASES: list[TroubleCase] = [
    (
        "length-collapse",
        steps(12, completion_length_mean=lambda s: 100.0 if s <= 4 else 2.0),
        {},
        "warning",
        "100.0 tokens at the start, 2.0 at the end",
        "kl_coeff = 0.04",
    ),
    (
        "truncation",
        steps(12, truncated_fraction=0.5),
        {"max_new_tokens": 300},
        "warning",
        "50 % of the completions of the last 5 steps are cut off by max_new_tokens = 300",
        "max_new_tokens = 608",
    ),
    (
        "repetition",
        steps(12, repetition=0.6),
        {"temperature": 0.5},
        "warning",
        "60 % of the 4-grams of the tokens of the last 5 steps repeat earlier ones",
        "temperature = 0.8",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_each_trouble_is_told_with_its_numbers_and_its_cure(tmp_path: Path, case: TroubleCase) -> None:
    check_trouble(tmp_path, case)


@pytest.mark.parametrize(("share", "severity"), [(0.25, "ok"), (0.26, "warning"), (0.31, "warning")])
def test_repetition_is_told_from_a_quarter_on(tmp_path: Path, share: float, severity: str) -> None:
    """0.33 is a sentence that is said twice."""
    assert examine(written(tmp_path, steps(12, repetition=share)))["repetition"].severity == severity


def test_a_log_without_repetition_is_judged_by_the_completions_words(tmp_path: Path) -> None:
    lines = [{k: v for k, v in line.items() if k != "repetition"} for line in steps(12)]
    loop = tuple({"step": s, "completion": "The capital of France is Paris. " * 4} for s in range(1, 13))
    finding = examine(written(tmp_path, lines, loop))["repetition"]
    assert finding.severity == "warning"
    assert finding.numbers["repetition"] == pytest.approx(1 - 6 / 21)
    assert finding.seen.startswith("71 % of the 4-grams of the words of the last 5 logged completions")
    finding = examine(written(tmp_path, lines))["repetition"]
    assert finding.seen == "neither the log nor completions.jsonl shows repetition"
