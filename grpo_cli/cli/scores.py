"""Print an evaluation: a table, histograms of the rewards, a verdict."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from grpo_cli.cli.charts import bar_lines, histogram_lines
from grpo_cli.cli.figures import percent
from grpo_cli.cli.terminal import ascii_only, say, stdout_console
from grpo_cli.foreign_text import one_line
from grpo_cli.words import plural

HISTOGRAM_WIDTH = 60
VERDICT_STYLES = {"better": "bold green", "worse": "bold red", "no significant difference": "bold yellow"}


def print_scores(document: dict[str, Any]) -> None:
    """Print the results of `grpo eval` on stdout."""
    console = stdout_console()
    say(console, Text(title(document), style="bold"))
    say(console, score_table(document))
    for name, reward in document["rewards"].items():
        say(console, histogram(name, reward, ascii_only(console)))
    if "comparison" in document:
        say(console, verdict_line(document))


def title(document: dict[str, Any]) -> str:
    """Model, dataset and sampling of the evaluation."""
    how = "greedy" if document["temperature"] == 0 else f"temperature {document['temperature']:g}"
    each = (
        f", {plural(document['num_generations'], 'completion')} each"
        if document["num_generations"] > 1
        else ""
    )
    return (
        f"{one_line(document['model'])} on {one_line(document['dataset'])} ({document['split']}, "
        f"{plural(document['samples'], 'example')}{each}, {how})\n"
    )


def score_table(document: dict[str, Any]) -> Table:
    """One row per score, one column per model."""
    cards = [document, *([document["compared"]] if "compared" in document else [])]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=len(cards) > 1)
    table.add_column("")
    for name in (document["model"], document.get("compared_model", "")):
        table.add_column(Text(one_line(name)), justify="right")
    rows: list[tuple[str, list[str]]] = [("accuracy", [accuracy_cell(card) for card in cards])]
    for k in document["pass_at_k"]:
        if k != "1":
            rows.append((f"pass@{k}", [percent(card["pass_at_k"][k]) for card in cards]))
    rows.append(("format", [percent(card["format"]) for card in cards]))
    rows.append(("length", [f"{card['length_mean']:.1f} tokens" for card in cards]))
    rows.append(("truncated", [percent(card["truncated_fraction"]) for card in cards]))
    rows.append(("time", [f"{card['seconds']:.1f} s" for card in cards]))
    for label, cells in rows:
        table.add_row(label, *map(Text, cells))
    return table


def accuracy_cell(card: dict[str, Any]) -> str:
    """The accuracy with its count and its 95 % interval."""
    low, high = card["accuracy_interval"]
    count = f"{card['correct']} of {card['completions']}"
    return f"{percent(card['accuracy'])} ({count}; 95 %: {percent(low)} to {percent(high)})"


def histogram(name: str, reward: dict[str, Any], plain: bool) -> RenderableType:
    """The distribution of one reward over the completions that it applies to."""
    if reward["mean"] is None:
        return Text(f"\nreward {one_line(name)}: applied to no completion", style="bold")
    if "values" in reward:
        labels = [f"{value:g}" for value in reward["values"]]
        lines = bar_lines(labels, reward["counts"], HISTOGRAM_WIDTH, plain)
    else:
        lines = histogram_lines(reward["counts"], reward["edges"], HISTOGRAM_WIDTH, plain)
    heading = Text(f"\nreward {one_line(name)}: mean {reward['mean']:.3f}", style="bold")
    return Group(heading, *(Text(f"  {line}") for line in lines))


def verdict_line(document: dict[str, Any]) -> Text:
    """The verdict on the comparison of two models, with its certainty."""
    comparison = document["comparison"]
    low, high = comparison["interval"]
    return Text.assemble(
        f"\n{one_line(document['model'])} against {one_line(document['compared_model'])}: ",
        (comparison["verdict"], VERDICT_STYLES[comparison["verdict"]]),
        f", {comparison['accuracy_difference'] * 100:+.1f} points "
        f"(95 %: {low * 100:+.1f} to {high * 100:+.1f}; paired test: p = {comparison['p']:.2g}). "
        f"Only the first right: {plural(comparison['only_model_right'], 'item')}, "
        f"only the second: {comparison['only_compared_right']}.",
    )
