"""Numbers of a run's log, by hand: values that are none are left out."""

from typing import Any

import pytest

from grpo_cli.doctor.read.run_log import first_third, last_third, number, percent, series, short, step_number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, 0.5), (3, 3.0), (-2, -2.0), (True, None), (None, None), ("1", None), (float("nan"), None),
        (float("inf"), None), (1e100, None), (-1e100, None), (9e99, 9e99), (10**400, None), ([1], None),
    ],
)  # fmt: skip
def test_a_number_is_finite_and_no_text(value: Any, expected: float | None) -> None:
    assert number({"kl": value}, "kl") == expected
    assert number({}, "kl") is None


def test_a_series_leaves_out_what_is_no_number() -> None:
    lines = [{"kl": 0.1}, {"kl": None}, {}, {"kl": "0.2"}, {"kl": 0.3}, {"kl": float("nan")}]
    assert series(lines, "kl") == [0.1, 0.3]


def test_the_number_of_a_step() -> None:
    assert [step_number(line) for line in ({"step": 7}, {"step": 7.0}, {"step": "7"}, {})] == [7, 7, 0, 0]


def test_thirds_by_hand() -> None:
    """The last third has 5 values or more, where there are as many."""
    assert first_third(range(9)) == range(3)
    assert first_third([8, 9]) == [8]
    assert first_third([]) == []
    assert last_third(list(range(30))) == list(range(20, 30))
    assert last_third(list(range(9))) == [4, 5, 6, 7, 8]
    assert last_third([1, 2]) == [1, 2]


def test_shares_and_texts_as_findings_show_them() -> None:
    assert [percent(share) for share in (0.25, 0.0, 1.0, 0.006)] == ["25 %", "0 %", "100 %", "1 %"]
    assert short("a\n  b\tc") == "a b c"
    assert short("x" * 60) == "x" * 60
    assert short("x" * 61) == "x" * 59 + "…"
    assert short("abcdef", most=4) == "abc…"
