"""What a reward logs: its names in the log, their bounds, and values as plain JSON data."""

import json
import math
from typing import Any

import pytest

from grpo_cli.rewards.notes import LONGEST_VALUE, MOST_NAMES, Notes, averages


def test_a_metric_keeps_its_name_unless_the_log_uses_it() -> None:
    notes = Notes(1)
    for name in ("parsed", "loss", "rewards/mine", "eval_accuracy", "nan_fraction/x", "logged/loss"):
        notes.log_metric(name, 2)
    assert averages(notes.metrics, {"loss", "step"}) == {
        "parsed": 2.0,
        "logged/loss": 2.0,
        "logged/rewards/mine": 2.0,
        "logged/eval_accuracy": 2.0,
        "logged/nan_fraction/x": 2.0,
        "logged/logged/loss": 2.0,
    }


def test_several_values_are_averaged_without_nan() -> None:
    notes = Notes(1)
    for value in (1.0, math.nan, 4.0):
        notes.log_metric("parsed", value)
    notes.log_metric("never", math.nan)
    assert averages(notes.metrics, ()) == {"parsed": 2.5}


def test_shares_of_nan_are_logged_only_if_there_is_one() -> None:
    assert averages({"nan_fraction/a": [0.0, 0.0], "nan_fraction/b": [0.0, 1.0]}, ()) == {
        "nan_fraction/b": 0.5
    }


def test_names_are_bounded_and_harmless() -> None:
    notes = Notes(1)
    notes.log_metric("\x1b[2Ja\nb" + "c" * 200, 1.0)
    assert list(notes.metrics) == ["␛[2Ja⏎b" + "c" * 93]
    for number in range(MOST_NAMES - 1):
        notes.log_metric(f"name {number}", 1.0)
    notes.log_metric("name 0", 1.0)  # known names stay usable
    with pytest.raises(ValueError, match="a reward can log 100 names in one call"):
        notes.log_metric("one more", 1.0)
    with pytest.raises(ValueError, match="the name is empty"):
        notes.log_extra("", [1])


@pytest.mark.parametrize(
    ("value", "error"), [(math.inf, ValueError), ("much", ValueError), (None, TypeError)]
)
def test_what_is_no_number_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Notes(1).log_metric("parsed", value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": [1, math.nan, -math.inf], 3: None}, {"a": [1, None, None], "3": None}),
        (1j, "1j"),
        ("half \ud83d of a pair", "half � of a pair"),
        ("x" * (LONGEST_VALUE + 1), "x" * LONGEST_VALUE + "…"),
        ([5] * LONGEST_VALUE, "[" + "5, " * (LONGEST_VALUE // 3) + "5…"),
    ],
)
def test_extras_are_plain_json(value: Any, plain: Any) -> None:
    notes = Notes(1)
    notes.log_extra("found", [value])
    assert notes.extras == {"found": [plain]}
    json.dumps(plain, allow_nan=False).encode()


def test_an_extra_has_one_value_for_each_completion() -> None:
    with pytest.raises(ValueError, match="1 value for 2 completions"):
        Notes(2).log_extra("found", ["18"])
