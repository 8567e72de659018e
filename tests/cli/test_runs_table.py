"""The table of runs on terminals: by its exact text at 80 columns, whole at others."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.table import Table

from grpo_cli.cli.runs_table import age, narrow_table, short_name, wide_table
from grpo_cli.doctor.read.runs import FoundRun
from tests.support.consoles import terminal_console

NOW = 1_800_000_000.0
RUN = FoundRun(
    path=Path("outputs/Qwen2.5-1.5B-Instruct-gsm8k"),
    model="Qwen/Qwen2.5-1.5B-Instruct",
    data="openai/gsm8k",
    state="running",
    pid=1234567,
    reason="",
    started="",
    changed=NOW - 7200,
    step=1200,
    total_steps=1250,
    accuracies=[(0, 0.39), (600, 0.7), (1200, 1.0)],
    size=12_345_678,
    is_whole_size=True,
    is_link=False,
)
OTHER = replace(
    RUN, path=Path("o/s"), model="tiny", data="", state="interrupted", pid=None, accuracies=[(0, 0.42)],
    total_steps=None, is_whole_size=False,
)  # fmt: skip


def drawn(table: Table, width: int) -> list[str]:
    console, stream = terminal_console()
    console.width = width
    console.print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_two_lines_a_run_at_80_columns() -> None:
    assert drawn(narrow_table([RUN, OTHER], NOW, False), 80) == [
        "run                                                                     changed",
        "model · data                   state            steps  accuracy            size",
        "Qwen2.5-1.5B-Instruct-gsm8k    running      1200/1250  39.0 → 100.0 %    2h ago",
        "Qwen2.5-1.5B-Instruct · gsm8k  pid 1234567             ▁▅█              12.3 MB",
        "s                              interrupted       1200  42.0 %            2h ago",
        "tiny                                                                   >12.3 MB",
    ]


def test_a_long_name_is_broken_and_never_cut() -> None:
    long = replace(RUN, path=Path("o") / ("name-" * 15))
    lines = drawn(narrow_table([long], NOW, False), 80)
    assert max(map(len, lines)) <= 80
    assert "".join(line[:31].strip() for line in lines[2:]).startswith("name-" * 15)


def test_one_line_a_run_where_that_fits() -> None:
    assert drawn(wide_table([RUN], NOW, True), 200)[1].split("  ") == [
        "Qwen2.5-1.5B-Instruct-gsm8k", "Qwen2.5-1.5B-Instruct", "gsm8k", "running pid 1234567", "1200/1250",
        "39.0 → 100.0 %", "_=#", "12.3 MB", "2h ago",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("passed", "shown"),
    [(-5, "0s ago"), (59, "59s ago"), (60, "1m ago"), (3599, "59m ago"), (3600, "1h ago"),
     (86399, "23h ago"), (86400, "1d ago"), (7 * 86400 - 1, "6d ago"), (20 * 86400, "2026-12-26")],
)  # fmt: skip
def test_age(passed: float, shown: str) -> None:
    assert age(NOW - passed, NOW) == shown


def test_short_name() -> None:
    assert short_name("Qwen/Qwen2.5") == "Qwen2.5"
    assert short_name("models/mine/") == "mine"
    assert short_name("x" * 30 + "y" * 30) == "x" * 19 + "…" + "y" * 19
    assert short_name("a\x1b/b\n\x1bc") == "b⏎␛c"
