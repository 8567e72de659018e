"""Charts by their exact text."""

import math

from grpo_cli.cli.charts import bar_lines, histogram_lines, line_chart, progress_bar, sparkline


def test_sparkline_spans_lowest_to_highest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([7, 0, 7], 8) == "█▁█"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8, ascii_only=True) == "_.:-=+*#"


def test_sparkline_averages_what_does_not_fit() -> None:
    assert sparkline([0, 0, 7, 7, 3, 4], 3) == "▁█▅"  # means 0, 7, 3.5: halfway rounds to the even 4


def test_sparkline_of_little() -> None:
    assert sparkline([], 5) == ""
    assert sparkline([0.4, 0.4], 5) == "▄▄"
    assert sparkline([math.nan, 1.0, math.inf, 2.0], 5) == "▁█"


def test_line_chart_in_braille() -> None:
    assert line_chart([0, 1], 12, 2) == [
        "1.00 ┤   ⣀⠔⠊",
        "0.00 ┤⡠⠔⠉   ",
    ]


def test_line_chart_in_ascii_joins_steep_steps() -> None:
    assert line_chart([0, 1, 0], 11, 3, ascii_only=True) == [
        "1.00 +  *  ",
        "     | * * ",
        "0.00 +*   *",
    ]
    assert line_chart([0, 3], 8, 4, ascii_only=True) == [
        "3.00 + *",
        "     | *",
        "     | *",
        "0.00 +* ",
    ]


def test_line_chart_grows_into_its_slots() -> None:
    assert line_chart([5, 6], 12, 2, slots=4, ascii_only=True) == ["6.00 + *    ", "5.00 +*     "]
    assert line_chart([5, 6, 5, 6], 12, 2, slots=4, ascii_only=True) == ["6.00 + *   *", "5.00 +* *** "]


def test_line_chart_averages_what_shares_a_column() -> None:
    # Columns hold (0, 0, 0), (9, 9, 9) and the last value alone.
    assert line_chart([0, 0, 0, 9, 9, 9, 0], 9, 2, ascii_only=True) == ["9.00 + * ", "0.00 +* *"]


def test_line_chart_places_values_in_their_slots_and_marks_the_best() -> None:
    # Seven slots: values in the first, third and fifth. The first of equal ones is marked.
    assert line_chart([0, 9, 9], 14, 3, slots=7, ascii_only=True, places=[0, 2, 4], mark_best=True) == [
        "9.00 +  o**   ",
        "     | *      ",
        "0.00 +*       ",
    ]
    assert line_chart([0, 1], 12, 2, mark_best=True) == ["1.00 ┤   ⣀⠔●", "0.00 ┤⡠⠔⠉   "]


def test_an_unknown_value_in_its_slot_is_bridged() -> None:
    assert line_chart([0, math.nan, 2], 9, 3, ascii_only=True, places=[0, 1, 2], mark_best=True) == [
        "2.00 +  o",
        "     | * ",
        "0.00 +*  ",
    ]


def test_flat_and_empty_line_charts() -> None:
    assert line_chart([0.5, 0.5], 9, 3, ascii_only=True) == ["     |   ", "0.50 +***", "     |   "]
    assert line_chart([math.nan], 4, 2) == ["    ", "    "]


def test_line_chart_labels_tell_a_small_span_apart() -> None:
    chart = line_chart([0.901, 0.904], 10, 2, ascii_only=True)
    assert [line.split()[0] for line in chart] == ["0.9040", "0.9010"]


def test_histogram_lines() -> None:
    assert histogram_lines([2, 4, 0, 1], [0, 0.5, 1, 1.5, 2], 24) == [
        "0.00 to 0.50 │████ 2",
        "0.50 to 1.00 │████████ 4",
        "1.00 to 1.50 │ 0",
        "1.50 to 2.00 │██ 1",
    ]
    assert histogram_lines([3, 12], [0, 5, 10], 16, ascii_only=True) == [
        " 0 to  5 |# 3",
        " 5 to 10 |### 12",
    ]


def test_bar_lines_show_eighths_and_never_hide_a_count() -> None:
    assert bar_lines(["no", "yes"], [1, 1000], 12) == [
        " no │▏ 1",
        "yes │██ 1000",
    ]


def test_bars_without_counts() -> None:
    assert bar_lines(["a"], [0], 10) == ["a │ 0"]
    assert bar_lines([], [], 10) == []


def test_progress_bar() -> None:
    assert progress_bar(0.45, 10) == ("━━━━╸", "─────")
    assert progress_bar(0.0, 4) == ("", "────")
    assert progress_bar(1.5, 4) == ("━━━━", "")
    assert progress_bar(0.5, 4, ascii_only=True) == ("##", "..")
