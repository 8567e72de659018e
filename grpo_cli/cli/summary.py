"""Summary of a finished training run: before and after, the model's folder, commands that use it."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from grpo_cli.cli.figures import accuracy, duration, number, share, shown
from grpo_cli.cli.progress import RunProgress
from grpo_cli.cli.terminal import Safe, say, say_command
from grpo_cli.engine.events import RunFinished
from grpo_cli.foreign_text import one_line, quoted
from grpo_cli.words import plural

WIDE = 1000  # columns: wider than any table
LONGEST_PROMPT = 60  # a longer one would obscure the command


def print_summary(console: Console, progress: RunProgress, page: Path | None = None) -> None:
    """Print the summary of `progress.finished` on the console; nothing if the run did not finish.

    `page`: the run's page, which the last line names.
    """
    finished = progress.finished
    if finished is None:
        return
    for line in heading(finished, progress.run.resumed_at if progress.run else 0):
        say(console, line)
    for index, text in enumerate(finished.interruptions):
        say(console, Text(f"{'  ' * (index > 0)}{one_line(text)}"))
    if (table := comparison(finished.first, finished.last)) is not None:
        console.print()
        console.print(Safe(fitting(table, console)))
    if sure := certainty(finished.first or {}, finished.last or {}):
        say(console, Text(sure))
    say(console, Text.assemble("\nThe model is in ", (one_line(str(finished.final)), "bold"), ". To use it:"))
    for command in commands(finished, progress.sample.prompt if progress.sample else ""):
        say_command(console, command)
    if page is not None:
        say(console, Text.assemble("\nThe run as a page: ", (one_line(str(page)), "bold")))


def fitting(table: Table, console: Console) -> Table:
    """The table; in a narrow window without its last column, which follows from the others."""
    if Measurement.get(console, console.options.update(max_width=WIDE), table).maximum > console.width:
        table.columns.pop()
    return table


def heading(finished: RunFinished, resumed_at: int = 0) -> list[Text]:
    """The result: done, or that nothing was learned, with reason and remedy. The time is for this part."""
    steps = f"{plural(finished.steps - resumed_at, 'step')} in {duration(finished.seconds)}"
    if resumed_at:
        steps += f" after step {resumed_at}, {finished.steps} in all"
    nothing = finished.nothing_learnt
    if nothing is None:
        return [Text(f"\nDone: {steps}.", style="bold")]
    lines = [
        Text(f"\nNothing was learned: {steps}, and in no group did the rewards differ.", style="bold yellow")
    ]
    lines.append(Text(f"  {one_line(nothing.seen)}"))
    if nothing.cures:
        words, *toml = nothing.cures
        lines += [Text(f"  {words}:"), *(Text(f"    {one_line(line)}", style="cyan") for line in toml)]
    command = f"`grpo doctor --run {quoted(finished.run_dir)}`"
    return [*lines, Text.assemble("  more: ", (command, "cyan"))]


def comparison(first: dict[str, Any] | None, last: dict[str, Any] | None) -> Table | None:
    """The evaluations before and after training side by side; None if there was none."""
    if not first and not last:
        return None
    before, after = first or {}, last or {}
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in (f"before{at_step(before)}", f"after{at_step(after)}", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, key, unit in (
        ("accuracy", "eval_accuracy", " points"),
        ("format", "eval_format", " points"),
        ("length", "eval_length_mean", " tokens"),
    ):
        cells = [score(key, before), score(key, after), difference(key, before, after, unit)]
        if any(cells):
            table.add_row(label, *(Text(cell) for cell in cells))
    return table


def at_step(evaluation: dict[str, Any]) -> str:
    """Heading with an evaluation's step."""
    return f" (step {evaluation['step']})" if "step" in evaluation else ""


def score(key: str, evaluation: dict[str, Any]) -> str:
    """One cell: the accuracy with its count, a fraction, or a mean length; empty if unknown."""
    if key == "eval_accuracy":
        return accuracy(evaluation) or ""
    if key == "eval_length_mean":
        return shown(evaluation, key, ".1f", " tokens") or ""
    return share(evaluation, key) or ""


def difference(key: str, before: dict[str, Any], after: dict[str, Any], unit: str) -> str:
    """After minus before, with its sign; fractions in percentage points."""
    old, new = number(before, key), number(after, key)
    if old is None or new is None:
        return ""
    return f"{(new - old) * (100 if unit == ' points' else 1):+.1f}{unit}"


def certainty(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The verdict on the difference in accuracy, by the test of `grpo eval --compare`, with its interval."""
    old, new = before.get("eval_right"), after.get("eval_right")
    if not (isinstance(old, str) and isinstance(new, str) and len(old) == len(new) > 0):
        return ""
    from grpo_cli.engine.evaluation.intervals import compare_pairs

    result = compare_pairs([int(b) - int(a) for a, b in zip(old, new, strict=True)])
    low, high = (100 * end for end in result.interval)
    points = difference("eval_accuracy", before, after, " points")
    return f"accuracy: {result.verdict}, {points} (95 %: {low:+.1f} to {high:+.1f})"


def commands(finished: RunFinished, asked: str) -> list[str]:
    """Commands that use the result, quoted for a shell; `asked` is an example prompt if it is short."""
    model = quoted(finished.final)
    short = asked if asked and asked == one_line(asked) and len(asked) <= LONGEST_PROMPT else "…"
    prompt = quoted(short) if any(char in short for char in '"$`\\!') else f'"{short}"'
    loaded = model
    if finished.adapters_on:
        loaded = f"{quoted(finished.adapters_on)} --adapter-path {model}"
    if finished.own_code:
        loaded += " --trust-remote-code"
    return [
        f"grpo eval --model {model}",
        f"grpo generate --model {model} --prompt {prompt}",
        f"mlx_lm.generate --model {loaded} --prompt {prompt}",
    ]
