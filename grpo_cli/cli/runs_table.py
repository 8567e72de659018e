"""The table of `grpo runs`: a line a run where that fits, otherwise two, for 80 columns.

run                            state        steps  accuracy        changed
model · data                                                          size
smoke-test                     done         60/60  39.0 → 100.0 %   2h ago
tiny · arithmetic                                  ▁▃▅▇█           12.3 MB
"""

import time
from datetime import datetime
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from grpo_cli.cli.charts import sparkline
from grpo_cli.cli.figures import percent
from grpo_cli.cli.terminal import Safe, ascii_only, is_interactive, say, stdout_console
from grpo_cli.foreign_text import one_line

if TYPE_CHECKING:
    from grpo_cli.doctor.read.runs import FoundRun

WIDE = 1000  # columns: wider than any table
SPARKS = 8
LONGEST_NAME = 40  # characters of a model or dataset
STYLES = {"running": "cyan", "done": "green", "interrupted": "yellow", "failed": "red"}
DAYS_SHOWN = 7


def print_runs(found: list["FoundRun"]) -> None:
    """Print the table on stdout, and below it why runs failed."""
    console = stdout_console()
    now, plain = time.time(), ascii_only(console)
    table = wide_table(found, now, plain)
    natural = Measurement.get(console, console.options.update(max_width=WIDE), table).maximum
    if is_interactive(console) and natural > console.width:
        console.print(Safe(narrow_table(found, now, plain)))
    else:  # whole lines for programs
        table.width = natural
        console.print(Safe(table), crop=False)
    for run in found:
        if run.reason:
            say(console, Text(f"{one_line(run.name)}: {one_line(run.reason)}", style="dim"))


def wide_table(found: list["FoundRun"], now: float, plain: bool) -> Table:
    """One line for each run."""
    table = empty_table()
    for heading in ("run", "model", "data", "state", "steps", "accuracy", "", "size", "changed"):
        table.add_column(heading, no_wrap=True, justify="right" if heading in ("size", "steps") else "left")
    for run in found:
        table.add_row(
            Text(one_line(run.name), style="bold"),
            Text(short_name(run.model)),
            Text(short_name(run.data)),
            Text(" ".join(filter(None, state_of(run))), style=STYLES[run.state]),
            Text(steps_of(run)),
            Text(accuracies_of(run)),
            Text(sparks_of(run, plain)),
            Text(size_of(run)),
            Text(age(run.changed, now)),
        )
    return table


def narrow_table(found: list["FoundRun"], now: float, plain: bool) -> Table:
    """Two lines for each run, in at most 80 columns; a long name is broken, never cut."""
    table = empty_table()
    table.add_column("run\nmodel · data", overflow="fold", ratio=1)
    table.add_column("state", no_wrap=True)
    table.add_column("steps", no_wrap=True, justify="right")
    table.add_column("accuracy", no_wrap=True)
    table.add_column("changed\nsize", no_wrap=True, justify="right")
    for run in found:
        names = f"{short_name(run.model)} · {short_name(run.data)}".strip(" ·")
        state, pid = state_of(run)
        table.add_row(
            Text.assemble((one_line(run.name), "bold"), (f"\n{names}", "dim")),
            Text.assemble((state, STYLES[run.state]), (f"\n{pid}", "dim")),
            Text(steps_of(run)),
            Text.assemble(accuracies_of(run), (f"\n{sparks_of(run, plain)}", "dim")),
            Text.assemble(age(run.changed, now), (f"\n{size_of(run)}", "dim")),
        )
    return table


def empty_table() -> Table:
    """A table without lines."""
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")


def short_name(name: str) -> str:
    """The last part of a path or a hub name, cut in the middle of LONGEST_NAME characters at most."""
    last = one_line(name.rstrip("/").rpartition("/")[2])
    half = LONGEST_NAME // 2 - 1
    return last if len(last) <= LONGEST_NAME else f"{last[:half]}…{last[-half:]}"


def state_of(run: "FoundRun") -> tuple[str, str]:
    """The state, and the process of a running run."""
    return run.state + (" →" if run.is_link else ""), f"pid {run.pid}" if run.pid else ""


def steps_of(run: "FoundRun") -> str:
    """The steps done, of how many if that is known."""
    return f"{run.step}" + (f"/{run.total_steps}" if run.total_steps else "")


def accuracies_of(run: "FoundRun") -> str:
    """The first and the last accuracy: 39.0 → 100.0 %."""
    values = [value for _, value in run.accuracies]
    if not values:
        return ""
    before = f"{100 * values[0]:.1f} → " if len(values) > 1 else ""
    return before + percent(values[-1])


def sparks_of(run: "FoundRun", plain: bool) -> str:
    """The course of the accuracy; empty for a single one."""
    values = [value for _, value in run.accuracies]
    return sparkline(values, SPARKS, plain) if len(values) > 1 else ""


def rate(run: "FoundRun") -> float:
    """The last accuracy, to sort by; -1 without one."""
    return run.accuracies[-1][1] if run.accuracies else -1.0


def size_of(run: "FoundRun") -> str:
    """The size on disk, with a > if not all of it could be measured."""
    return ("" if run.is_whole_size else ">") + decimal(run.size)


def age(then: float, now: float) -> str:
    """Time since then: 12s ago, 5m ago, 3h ago, 2d ago; after a week the date."""
    passed = int(max(0.0, now - then))
    if passed >= DAYS_SHOWN * 86400:
        return datetime.fromtimestamp(then).astimezone().strftime("%Y-%m-%d")
    for seconds, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if passed >= seconds:
            return f"{passed // seconds}{unit} ago"
    return f"{passed}s ago"
