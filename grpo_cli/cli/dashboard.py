"""The live dashboard of a training run on a terminal.

One `Text` per line, cut at the right edge and never wrapped, so that the height is known and
the display stays in place. On a low terminal, the least important lines are left out first.
"""

import math
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from grpo_cli.cli.charts import progress_bar, sparkline
from grpo_cli.cli.curves import MARGIN, accuracies, best, chart_lines, has_both, row
from grpo_cli.cli.figures import accuracy, duration, fields, magnitude, percent, share, shown, timing
from grpo_cli.cli.progress import RunProgress, ShownCompletion
from grpo_cli.cli.terminal import Safe, ascii_only, stderr_console
from grpo_cli.cli.time_left import SAVE
from grpo_cli.engine.events import RolloutProgress, UpdateProgress
from grpo_cli.foreign_text import one_line
from grpo_cli.words import plural

WIDEST = 110
CHART_ROWS = (4, 8)  # minimum and maximum height
CHART_EXTRA = 2  # the line with the steps below the curve and the gap above it
COMPLETION_ROWS, SAMPLE_HEAD = 3, 2  # of the sample: its text, at most, and the lines above
LONGEST_SHOWN = 4000  # characters of a completion that are examined

Lines = list[Text]


@dataclass(frozen=True)
class Dashboard:
    """A renderable that draws the state at the time it is rendered."""

    progress: RunProgress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, WIDEST)
        for line in frame(self.progress, width, console.height, ascii_only(console)):
            yield Safe(line)


def frame(progress: RunProgress, width: int, height: int, plain: bool = False) -> Lines:
    """The dashboard's lines: header and bars, chart, figures, sample.

    `height` is the terminal's. The chart has priority, then the figures in order, then the sample; remaining
    rows make the chart higher.
    """
    gap = Text("")  # between permanent lines and the dashboard
    top = [gap, *header(progress), *bars(progress, width, plain)]
    room = height - 1 - len(top) - (CHART_ROWS[0] + CHART_EXTRA if progress.steps else 0)
    facts = fact_lines(progress, width, plain)[: max(0, room - 1)]
    room -= len(facts) + 1
    rows = min(COMPLETION_ROWS, max(2, room - SAMPLE_HEAD - 1))
    sample = sample_lines(progress.sample, width, rows) if progress.sample else []
    if room > len(sample):
        room -= len(sample) + 1
    else:
        sample = []
    chart = chart_lines(progress, width, min(CHART_ROWS[0] + max(0, room), CHART_ROWS[1]), plain)
    parts = [part for part in (top, chart, facts, sample) if part]
    lines = [line for part in parts for line in ([gap, *part] if part is not top else part)][: height - 1]
    for line in lines:
        line.rstrip()  # trailing spaces would be wrapped too
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


def header(progress: RunProgress) -> Lines:
    """Model, dataset, memory and output folder of the run."""
    run = progress.run
    if run is None:
        return []
    trained = run.trainable_parameters
    size = f"{magnitude(run.parameters)} parameters" + (
        f", {magnitude(trained)} trained" if trained != run.parameters else ""
    )
    memory = shown(progress.metrics, "peak_memory_gb", ".2f", " GB peak")
    where = " · ".join(filter(None, (one_line(run.device), memory)))
    skipped = f", {run.skipped_prompts} too long" if run.skipped_prompts else ""
    return [
        row("model", (one_line(run.model), "bold"), (f"  {size} · {where}", "dim")),
        row(
            "run", one_line(str(run.run_dir)), (f"  {plural(run.train_examples, 'example')}{skipped}", "dim")
        ),
    ]


def bars(progress: RunProgress, width: int, plain: bool) -> Lines:
    """The progress of the run and, below it, of the current stage."""
    total = progress.run.total_steps if progress.run else 0
    done, left = progress.finished, progress.left()
    times = duration(done.seconds if done else progress.elapsed())
    if left is not None and not done:
        times += f", {duration(left)} left"
    stage = progress.doing
    if isinstance(stage, RolloutProgress):
        tokens = plural(stage.tokens, "token")
        below = bar(stage.phase, stage.finished, stage.total, tokens, width, plain, "cyan")
    elif isinstance(stage, UpdateProgress):
        below = bar("update", stage.finished, stage.total, "", width, plain, "magenta")
    else:
        below = Text("")
    return [bar("step", progress.step, total, times, width, plain, "green"), below]


def bar(label: str, done: int, total: int, note: str, width: int, plain: bool, style: str) -> Text:
    """One labelled bar with its count and a note."""
    room = max(8, min(48, width - MARGIN - 32))
    full, rest = progress_bar(done / total if total else 0.0, room, plain)
    return row(label, (full, style), (rest, "bright_black"), f"  {f'{done}/{total}':<8}", (f" {note}", "dim"))


def fact_lines(progress: RunProgress, width: int, plain: bool) -> Lines:
    """Accuracy, next work, teaching groups, length, speed, update and pressure, one line each if known."""
    metrics = progress.metrics
    seconds = fields(
        ("rollout", timing(metrics, "rollout_seconds")),
        ("+ update", timing(metrics, "update_seconds")),
        ("= step", timing(metrics, "step_seconds")),
        gap=" ",
    )
    update = fields(
        ("kl", shown(metrics, "kl", ".4f")),
        ("entropy", shown(metrics, "entropy", ".3f")),
        ("gradient", shown(metrics, "grad_norm", ".3g")),
        ("clipped", share(metrics, "clip_ratio")),
        ("lr", shown(metrics, "lr", ".3g")),
    )
    speed = shown(metrics, "rollout_tokens_per_second", ",.0f", " tok/s")
    found: list[tuple[str, list[str | tuple[str, str]]]] = [
        ("accuracy", accuracy_pieces(progress, width, plain)),
        ("next", next_pieces(progress)),
        ("teaching", teaching_pieces(progress, plain)),
        ("length", length_pieces(progress, plain)),
        ("speed", [(speed or "").ljust(15), (seconds, "dim")] if speed or seconds else []),
        ("update", [(update, "dim")] if update else []),
        ("machine", [(progress.machine, "yellow")] if progress.machine else []),
    ]
    return [row(label, *pieces) for label, pieces in found if pieces]


def accuracy_pieces(progress: RunProgress, width: int, plain: bool) -> list[str | tuple[str, str]]:
    """The latest accuracy, the first one for comparison, the best, and a sparkline if there is no curve."""
    evaluations = list(progress.evaluations)
    if not evaluations or (latest := accuracy(evaluations[-1])) is None:
        return []
    known = accuracies(progress)
    step = evaluations[0].get("step", 0)
    if len(known) > 1:
        course = f"from {percent(known[0][1])} at step {step}"
        if not has_both(progress, width):
            course += f"  {sparkline([value for _, value in known], 20, plain)}"
        top_step, top = best(known)
        if top > known[-1][1]:
            course += f"  best {percent(top)} at step {top_step}"
    else:
        course = f"at step {step}" if step else "before training"
    return [(latest, "bold"), (f"  {course}", "dim")]


def next_pieces(progress: RunProgress) -> list[str | tuple[str, str]]:
    """The next evaluation and checkpoint, the sooner one first: after which step, and in how long."""
    pieces = []
    for kind, step, seconds in progress.coming():
        is_final = kind == SAVE and progress.run is not None and step == progress.run.total_steps
        name = "final model" if is_final else "checkpoint" if kind == SAVE else kind
        time = "" if seconds is None else f" in {duration(seconds)}" if seconds else " now"
        pieces.append(f"{name} at step {step}{time}")
    return [(" · ".join(pieces), "dim")] if pieces else []


def teaching_pieces(progress: RunProgress, plain: bool) -> list[str | tuple[str, str]]:
    """The share of groups whose rewards differ: only these have an advantage, and a sparkline."""
    latest = progress.teaching[-1] if progress.teaching else math.nan
    if not math.isfinite(latest):
        return []
    course = sparkline(progress.teaching, 20, plain)
    return [f"{100 * latest:.0f} % of groups".ljust(15), (course, "dim")]


def length_pieces(progress: RunProgress, plain: bool) -> list[str | tuple[str, str]]:
    """The mean completion length, the truncated fraction, and a sparkline."""
    latest = shown(progress.metrics, "completion_length_mean", ".1f", " tokens")
    if latest is None:
        return []
    cut = share(progress.metrics, "truncated_fraction")
    return [
        latest.ljust(15),
        (f"{sparkline(progress.lengths, 20, plain)}  {fields(('cut off', cut))}", "dim"),
    ]


def sample_lines(sample: ShownCompletion, width: int, rows: int = COMPLETION_ROWS) -> Lines:
    """The latest completion with `rows` lines of its text; the middle of a long one is left out."""
    room = max(10, width - MARGIN - 1)
    prompt, answer = one_line(sample.prompt), one_line(sample.answer)
    prompt = shortened(prompt, room - min(len(answer), 20) - 9)
    text = sample.completion
    if len(text) > LONGEST_SHOWN:
        text = text[: LONGEST_SHOWN // 2] + text[-LONGEST_SHOWN // 2 :]
    wrapped = middle_out(wrap(one_line(text), room), rows)
    parts = "  ".join(f"{one_line(name)} {reward_figure(value)}" for name, value in sample.rewards.items())
    return [
        row("latest", (prompt, "bold"), (f"  answer {shortened(answer, 20)}", "dim")),
        row(
            "",
            ("reward ", "dim"),
            (reward_figure(sample.reward), "green"),
            (f"  {parts}  ended by {sample.stop_reason}", "dim"),
        ),
        *(row("", line) for line in wrapped),
    ]


def reward_figure(value: float | None) -> str:
    """A reward with two digits; a dash if it does not apply."""
    return "–" if value is None else f"{value:.2f}"


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` cells, broken between words where possible."""
    return [line.plain.rstrip() for line in Text(text).wrap(stderr_console(), width)]


def middle_out(lines: list[str], rows: int) -> list[str]:
    """Exactly `rows` lines: the first and last ones around an ellipsis, or padded with empty lines."""
    if len(lines) <= rows:
        return lines + [""] * (rows - len(lines))
    return [*lines[: rows // 2 - 1], lines[rows // 2 - 1][:-2] + " …", *lines[-(rows - rows // 2) :]]


def shortened(text: str, width: int) -> str:
    """The text cut to `width` cells, with an ellipsis if shortened."""
    cut = Text(text)
    cut.truncate(max(1, width), overflow="ellipsis")
    return cut.plain
