"""`grpo runs`: a table of the runs in a folder, and the removal of those that a person confirms."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.text import Text

from grpo_cli.cli.doing import doing
from grpo_cli.cli.runs_table import print_runs, rate, size_of, steps_of
from grpo_cli.cli.terminal import is_interactive, print_json, say, stderr_console
from grpo_cli.files import chosen_path, from_here
from grpo_cli.foreign_text import one_line, quoted
from grpo_cli.words import plural

if TYPE_CHECKING:
    from grpo_cli.doctor.read.runs import FoundRun

DEFAULT_FOLDER = "outputs"
SHOWN_FILES = 4  # names of files that stay


class State(StrEnum):
    """The states of a run."""

    RUNNING = "running"
    DONE = "done"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Order(StrEnum):
    """The orders of the table."""

    CHANGED = "changed"
    NAME = "name"
    ACCURACY = "accuracy"
    STEPS = "steps"
    SIZE = "size"


def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with runs, or one run.", show_default=True)
    ] = Path(DEFAULT_FOLDER),
    sort: Annotated[
        Order, typer.Option("--sort", metavar="KEY", help="changed, name, accuracy, steps or size.")
    ] = Order.CHANGED,
    state: Annotated[
        list[State] | None,
        typer.Option("--state", metavar="STATE", help="Only running, done, interrupted or failed; repeats."),
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Ask for each run that is not running, and remove it on a yes.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove without asking: needs --clean with --state, or one run.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the runs as JSON.")] = False,
) -> None:
    """List the runs in a folder.

    Each with its state, steps, accuracy before and after training, and size on disk.
    """
    if yes and not clean:
        raise typer.BadParameter("--yes needs --clean")
    if clean and json:
        raise typer.BadParameter("--clean asks and prints no JSON: leave out one of them")
    folder = from_here(chosen_path(folder))
    found = sorted_by(sort, in_state(state, look(folder)))
    if clean:
        remove(found, folder, yes=yes, is_chosen=bool(state))
    elif json:
        print_json([run.as_row() for run in found])
    elif found:
        print_runs(found)
    else:
        say(stderr_console(), Text(f"No {'such ' if state else ''}runs in {one_line(str(folder))}."))


def look(folder: Path) -> list["FoundRun"]:
    """The runs in a folder. The default folder need not exist."""
    with doing("looking for runs …"):
        from grpo_cli.doctor.read.runs import found_runs

        if not folder.is_dir() and str(folder) != DEFAULT_FOLDER:
            raise typer.BadParameter(f"no such folder: {one_line(str(folder))}")
        return found_runs(folder)


def in_state(states: list[State] | None, found: list["FoundRun"]) -> list["FoundRun"]:
    """The runs in one of the states; all if none is named."""
    return [run for run in found if not states or run.state in states]


def sorted_by(order: Order, found: list["FoundRun"]) -> list["FoundRun"]:
    """The runs in an order: names ascending, numbers from the highest. `found` is by time already."""
    if order == Order.NAME:
        return sorted(found, key=lambda run: run.name)
    if order == Order.ACCURACY:
        return sorted(found, key=rate, reverse=True)
    if order == Order.STEPS:
        return sorted(found, key=lambda run: run.step, reverse=True)
    return sorted(found, key=lambda run: run.size, reverse=True) if order == Order.SIZE else found


# --- removal ------------------------------------------------------------------------------------------


def remove(found: list["FoundRun"], folder: Path, *, yes: bool, is_chosen: bool) -> None:
    """Show the runs that can be removed, ask for each, and remove those that are confirmed.

    `is_chosen`: their states were named, so that --yes may stand for all of them.
    """
    console = stderr_console()
    removable = []
    for run in found:
        if reason := kept_because(run, folder):
            say(console, Text(f"{one_line(str(run.path))} stays: {reason}.", style="dim"))
        else:
            removable.append(run)
    if not removable:
        say(console, Text("There is nothing to remove."))
        return
    is_single = len(found) == 1 and found[0].path == folder
    if yes and not (is_chosen or is_single):
        raise typer.BadParameter(
            "--yes needs the states to remove, such as --state failed, or one run's folder"
        )
    show_removable(removable)
    if not yes and not is_interactive(console):
        option = "--yes" if is_chosen or is_single else "--yes and the states, such as --state failed,"
        say(console, Text(f"To remove these, add {option} to the command."))
        return
    confirmed = [run for run in removable if yes or agreed(run)]
    freed = sum(removed(run) for run in confirmed)
    count = plural(len(confirmed), "run") if confirmed else "Nothing"
    say(console, Text(f"{count} removed" + (f", {decimal(freed)} freed." if confirmed else ".")))


def kept_because(run: "FoundRun", folder: Path) -> str:
    """The reason why a run cannot be removed; empty if it can."""
    if run.is_link:
        return "it is a link to another folder"
    if folder.is_symlink():
        return f"{one_line(str(folder))} is a link; give the folder itself: {quoted(folder.resolve())}"
    if run.state == State.RUNNING:
        return f"it is running{f' as process {run.pid}' if run.pid else ''}"
    return ""


def show_removable(removable: list["FoundRun"]) -> None:
    """Print what would be removed, with sizes, and the files in it that would stay."""
    from grpo_cli.engine.run_dir.removal import contents

    console = stderr_console()
    total = decimal(sum(run.size for run in removable))
    say(console, Text(f"Can be removed, {plural(len(removable), 'run')}, {total}:", style="bold"))
    for run in removable:
        state = f"{run.state}, {steps_of(run)} steps"
        say(console, Text(f"  {size_of(run):>10}  {one_line(str(run.path))}  ({state})"))
        others = contents(run.path)[1]
        if others:
            say(console, Text(f"              stays, not written by grpo: {listed(others)}", style="dim"))


def listed(names: list[str]) -> str:
    """The first few names."""
    more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
    return ", ".join(one_line(name) for name in names[:SHOWN_FILES]) + more


def agreed(run: "FoundRun") -> bool:
    """The user's answer for one run."""
    return typer.confirm(f"Remove {one_line(str(run.path))} ({size_of(run)})?", default=False, err=True)


def removed(run: "FoundRun") -> int:
    """Remove a run; returns the bytes that this frees. Raises CheckpointError if that fails."""
    from grpo_cli.doctor.read.stale_files import measured
    from grpo_cli.engine.run_dir.removal import remove_run

    others = remove_run(run.path)
    if not others:
        return run.size
    path = one_line(str(run.path))
    say(stderr_console(), Text(f"{path} stays, with what grpo did not write: {listed(others)}"))
    return max(0, run.size - measured(run.path)[0])
