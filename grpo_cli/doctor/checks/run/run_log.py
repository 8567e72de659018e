"""The check that a run's log can be read, and the values that several checks take from it.

    steps = logged_steps(context)
    last_third(series(steps, "kl"))

A log can be empty, cut off or damaged: values that are not numbers are left out. The check `run-log` reports
the damage once, and the other checks do not repeat it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.json_lines import json_object, texts
from grpo_cli.doctor.read.run_log import last_third, number, series, short, step_number
from grpo_cli.engine.guards.nothing_learned import BEST, FEWEST_STEPS
from grpo_cli.engine.guards.nothing_learned import solved as engine_solved
from grpo_cli.foreign_text import quoted
from grpo_cli.words import plural

# A peak rate that breaks any model: adapters of the embedded model learn at 1e-3; 10 broke it in one step.
EXCESSIVE_RATE = 1e-2
USUAL_RATE, USUAL_LORA_RATE = 5e-6, 5e-5  # the guide's and the shipped configurations' first choice


def readable(context: Context) -> Iterator[Finding]:
    """The run has a log, and every line of it can be read."""
    path = log_path(context)
    if not path.is_file():
        yield no_log(context)
        return
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as failure:
        yield error(
            f"training_log.jsonl cannot be read: {failure.strerror}",
            "make it readable",
            f"chmod u+r {quoted(path)}",
        )
        return
    yield from lines_of_log(context, texts(path))


def lines_of_log(context: Context, lines: Sequence[str]) -> Iterator[Finding]:
    """The finding for the log's lines: damaged ones, no steps, NaN values, or a summary."""
    broken = [place for place, text in enumerate(lines, 1) if json_object(text) is None]
    cut_off = broken[-1:] == [len(lines)]  # a killed or running run may cut off its last line
    steps, evaluations = logged_steps(context), accuracies(context)
    counts = {"steps": len(steps), "evaluations": len(evaluations), "broken_lines": len(broken)}
    if broken[: len(broken) - cut_off]:
        yield warning(
            f"{len(broken)} of {len(lines)} lines are not JSON objects, the first of them line {broken[0]}",
            "the checks skip them; this happens if the file was edited, or written by two programs: look at "
            "the line",
            f"sed -n {broken[0]}p {quoted(log_path(context))}",
            **counts,
        )
    elif not steps:
        held = f"holds {plural(len(evaluations), 'evaluation')}" if evaluations else "is empty"
        held = "holds no line that can be read" if cut_off and not evaluations else held
        yield skipped(f"no step is logged yet: training_log.jsonl {held}")
    elif odd := not_finite(context):
        seen = f"NaN or infinite in {plural(len(odd), 'metric')}: {told_metrics(odd)}"
        words = blamed_rate(context) or (
            "the checks skip these values; updates that are too large cause a NaN loss or KL: look at "
            "the lines, and lower the learning rate"
        )
        look = f"grep -nE 'NaN|Infinity' {quoted(log_path(context))}"
        yield warning(seen, words, look, lower_rate(context), **counts, not_finite=odd)
    else:
        ends = f"{step_number(steps[0])} to {step_number(steps[-1])}"
        last = "; its last line is cut off" if cut_off else ""
        yield ok(
            f"{plural(len(steps), 'step')} ({ends}), {plural(len(evaluations), 'evaluation')}{last}", **counts
        )


def not_finite(context: Context) -> dict[str, int]:
    """Number of lines in which a metric is NaN or infinite, by metric; null means not measured."""
    counts: dict[str, int] = {}
    for line in (*logged_steps(context), *context.evaluations):
        for name, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):
                counts[name] = counts.get(name, 0) + 1
    return counts


def told_metrics(counts: Mapping[str, int]) -> str:
    """The first five metrics in words: `kl in 6 lines, loss in 1 line`."""
    told = [f"{short(name)} in {plural(count, 'line')}" for name, count in list(counts.items())[:5]]
    return ", ".join(told)


def no_log(context: Context) -> Finding:
    """The warning for a run without a log."""
    if context.run_config is not None and not context.run_config.log_jsonl:
        return warning(
            "the run wrote no log: log_jsonl = false",
            "switch it on: without a log nothing can be said about a run",
            "log_jsonl = true",
        )
    folder = context.run or Path()
    runs = sorted(path.parent for path in folder.glob("*/training_log.jsonl"))
    return warning(
        f"{folder} holds no training_log.jsonl, so nothing can be said about its steps",
        "give the folder of a run, which has config.toml and training_log.jsonl",
        *(f"grpo doctor --run {quoted(run)}" for run in runs[:3]),
    )


def log_path(context: Context) -> Path:
    """Path of the run's log."""
    return (context.run or Path()) / "training_log.jsonl"


def logged_steps(context: Context) -> list[dict[str, Any]]:
    """The log's lines of steps that have a step number."""
    return [line for line in context.steps if number(line, "step") is not None]


def accuracies(context: Context) -> list[tuple[int, float, int]]:
    """Step, accuracy and number of examples of each evaluation that logged all three."""
    found = []
    for line in context.evaluations:
        step, accuracy, samples = (number(line, k) for k in ("step", "eval_accuracy", "eval_samples"))
        if step is None or accuracy is None or samples is None:
            continue
        if 0 <= accuracy <= 1 and 1 <= samples < 1e9:
            found.append((int(step), accuracy, int(samples)))
    return found


def too_few(context: Context, name: str, found: int, fewest: int = FEWEST_STEPS) -> Iterator[Finding]:
    """A skipped finding for too few steps; nothing if there are none, which `run-log` reports already."""
    if found or logged_steps(context) or name in context.asked:
        yield skipped(f"too few steps to tell: {found}, but {fewest} are needed")


def solved(context: Context) -> str:
    """The evidence that nearly all answers are right, such as `accuracy 100 %`; else empty."""
    evaluated, steps = accuracies(context), logged_steps(context)
    means = {reward: last_third(series(steps, f"rewards/{reward}")) for reward in BEST}
    return engine_solved(evaluated[-1][1] if evaluated else None, means)


def peak_rate(context: Context) -> float | None:
    """The highest learning rate in the log, else the configured one."""
    rates = series(logged_steps(context), "lr")
    if rates:
        return max(rates)
    return context.run_config.learning_rate if context.run_config else None


def lower_rate(context: Context, ceiling: float = USUAL_RATE) -> str:
    """The TOML line with a learning rate to try: a fifth of the run's, at most the usual one."""
    config = context.run_config
    lora = config is not None and (config.lora_rank > 0 or bool(config.adapter))
    usual = USUAL_LORA_RATE * ceiling / USUAL_RATE if lora else ceiling
    rate = peak_rate(context)
    return f"learning_rate = {min(rate / 5, usual) if rate else usual:.1g}"


def blamed_rate(context: Context) -> str:
    """The text that blames the learning rate if it is far above any that works; else empty."""
    rate = peak_rate(context)
    if rate is None or rate < EXCESSIVE_RATE:
        return ""
    return f"learning_rate = {rate:g} is the cause: usual values are below 0.001"


def model_name(context: Context) -> str:
    """The run's model, quoted for a command; `MODEL` if unknown."""
    return quoted(context.run_config.model_name) if context.run_config else "MODEL"
