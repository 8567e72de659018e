"""The curves of the dashboard: the mean reward of each step and, in a wide window, the accuracy beside it.

     reward     0.80 ┤        ⣀⠤⠒⠁   accuracy   0.92 ┤        ●⠤⣀
     0.80            │    ⢀⡠⠔⠉       90.0 %          │   ⡠⠔⠊
                0.20 ┤⡠⠔⠊⠁                      0.39 ┤⡠⠊
                      step 1     100                  step 0    100

Both end at the same step. ● marks the best accuracy.
"""

from rich.text import Text

from grpo_cli.cli.charts import line_chart
from grpo_cli.cli.figures import number, percent, shown
from grpo_cli.cli.progress import RunProgress

MARGIN = 12  # the column of labels
SHORTEST_SPAN = 100  # steps covered by the chart's width at first, for longer runs
NARROWEST_PAIR = 72  # columns of a window in which both curves are shown
GAP = 3  # columns between the curves
LABEL = 10  # of the second curve

Lines = list[Text]


def row(label: str, *pieces: str | tuple[str, str]) -> Text:
    """A line: its label in the margin, then pieces of text with optional styles."""
    return Text.assemble((f" {label}".ljust(MARGIN), "dim"), *pieces)


def accuracies(progress: RunProgress) -> list[tuple[int, float]]:
    """The known accuracies with their steps, ascending."""
    lines = [(int(number(line, "step") or 0), number(line, "eval_accuracy")) for line in progress.evaluations]
    return sorted({step: value for step, value in lines if value is not None}.items())


def best(known: list[tuple[int, float]]) -> tuple[int, float]:
    """Step and value of the highest accuracy, the first of equal ones."""
    return max(known, key=lambda pair: (pair[1], -pair[0]))


def has_both(progress: RunProgress, width: int) -> bool:
    """True if the curve of the accuracy is shown: two evaluations, one step, and a window wide enough."""
    return width >= NARROWEST_PAIR and bool(progress.steps) and len(accuracies(progress)) > 1


def chart_lines(progress: RunProgress, width: int, rows: int, plain: bool) -> Lines:
    """The curves, which grow to the right, with the steps at their ends; empty before the first step."""
    steps = list(progress.steps)
    if not steps or progress.run is None:
        return []
    total = progress.run.total_steps
    slots = min(span(len(steps)), max(total - steps[0] + 1, len(steps)))
    end = steps[0] + slots - 1
    room = width - MARGIN - 1
    both = has_both(progress, width)
    left = (room - GAP - LABEL) // 2 if both else room
    curve = line_chart(progress.rewards[: len(steps)], left, rows, slots, plain)
    latest = shown(progress.metrics, "reward_mean", ".2f") or ""
    lines = [
        row(label, *coloured(line, "green"))
        for label, line in zip(["reward", latest, *[""] * rows], curve, strict=False)
    ]
    lines[1].stylize("bold not dim", 0, MARGIN)
    lines.append(row("", (steps_below(curve[0], steps[0], end, total), "dim")))
    if both:
        for line, more in zip(
            lines, accuracy_lines(progress, room - left - GAP, rows, end, plain), strict=True
        ):
            line.append(" " * GAP)
            line.append_text(more)
    return lines


def accuracy_lines(progress: RunProgress, width: int, rows: int, end: int, plain: bool) -> Lines:
    """The curve of the accuracy up to the step `end`, with its labels and a mark where it was best."""
    known = accuracies(progress)
    first = known[0][0]
    places = [step - first for step, _ in known]
    values = [value for _, value in known]
    curve = line_chart(values, width - LABEL, rows, end - first + 1, plain, places=places, mark_best=True)
    labels = ["accuracy", percent(values[-1]), *[""] * rows]
    lines = [
        Text.assemble((label.ljust(LABEL), "dim"), *coloured(line, "cyan"))
        for label, line in zip(labels, curve, strict=False)
    ]
    lines[1].stylize("bold not dim", 0, LABEL)
    total = progress.run.total_steps if progress.run else end
    below = steps_below(curve[0], first, max(end, known[-1][0]), total)
    return [*lines, Text.assemble(" " * LABEL, (below, "dim"))]


def coloured(line: str, style: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """A chart's line as its axis and its curve, with their styles."""
    axis = axis_width(line)
    return (line[:axis], "dim"), (line[axis:], style)


def steps_below(line: str, first: int, end: int, total: int) -> str:
    """The first and last step under a curve whose line this is."""
    axis = axis_width(line)
    begin, last = f"step {first}", f"{end}" if end >= total else f"{end} of {total}"
    return " " * axis + begin + last.rjust(len(line) - axis - len(begin))


def axis_width(line: str) -> int:
    """Width of a chart line before the curve: label and axis."""
    return next((i for i, char in enumerate(line) if char in "┤│+|"), -1) + 1


def span(steps: int) -> int:
    """Steps covered by the chart's width: it doubles from time to time and stays constant in between."""
    slots = SHORTEST_SPAN
    while slots < steps:
        slots *= 2
    return slots
