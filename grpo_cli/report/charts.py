"""The curves of a page: which there are, and their points.

    charts = charts_of([run])
    charts[0]   # {"title": "Accuracy", "unit": "%", "x": [0, 25, 50], "series": [{"label": …, "y": […]}]}

A chart of one run shows each of its metrics, a chart of several runs the first metric of each. Runs of more
than MOST_POINTS steps are thinned: steps at equal distances, the last one, and those with a mark.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_cli.doctor.read.run_log import number
from grpo_cli.report.marks import MOST_MARKS, label, marks_of_line
from grpo_cli.report.read import RunRecord
from grpo_cli.report.sentence import accuracy_interval

MOST_POINTS = 1000  # of a curve
MOST_SERIES = 8  # of a chart
MOST_CHARTS = 60
DIGITS = 5  # significant ones of a value

Line = dict[str, Any]
Points = tuple[list[int], list[float | None]]


@dataclass(frozen=True)
class Chart:
    """A chart: its metrics by key with their labels. `key/*`: every metric that begins so."""

    title: str
    about: str
    keys: dict[str, str]
    unit: str = ""  # "%": shares, shown × 100


CHARTS = (
    Chart("Accuracy", "Share of right answers in the evaluations, with its 95 % interval.",
          {"eval_accuracy": "accuracy"}, "%"),
    Chart("Reward", "Mean over the completions of a step, and of each reward alone.",
          {"reward_mean": "mean reward", "rewards/*": ""}),
    Chart("Groups that teach", "Share of the groups in which the rewards differ; others teach nothing.",
          {"teaching_fraction": "groups that teach"}, "%"),
    Chart("Completion length", "Mean number of sampled tokens.",
          {"completion_length_mean": "in training", "eval_length_mean": "in evaluations"}, "tokens"),
    Chart("Cut off", "Share of the completions that were still running at max_new_tokens.",
          {"truncated_fraction": "in training", "eval_truncated_fraction": "in evaluations"}, "%"),
    Chart("Entropy", "Mean uncertainty about the next token; 0: always the same.",
          {"entropy": "entropy"}, "nats"),
    Chart("KL", "Mean distance of the policy from the reference.", {"kl": "KL"}, "nats"),
    Chart("Clipped tokens", "Share of the tokens whose ratio was clipped.",
          {"clip_ratio": "both", "clip_ratio_low": "low", "clip_ratio_high": "high"}, "%"),
    Chart("Gradient norm", "Before it is clipped to max_grad_norm.", {"grad_norm": "gradient norm"}),
    Chart("Ratio deviation", "Mean difference between the logprobs of the loss and of the sampler.",
          {"ratio_deviation": "deviation"}, "nats"),
    Chart("Loss", "It need not fall in reinforcement learning; the reward tells more.", {"loss": "loss"}),
    Chart("Learning rate", "", {"lr": "learning rate"}),
    Chart("Speed", "Sampled tokens per second.", {"rollout_tokens_per_second": "tokens/s"}, "tokens/s"),
    Chart("Time of a step", "By part.", {"step_seconds": "whole step", "rollout_seconds": "rollouts",
          "update_seconds": "update", "tool_seconds": "environments"}, "s"),
    Chart("Memory", "Peak so far.", {"peak_memory_gb": "peak memory"}, "GB"),
)  # fmt: skip
NOT_DRAWN = {"step", "epoch", "zero_std_fraction", "eval_samples", "eval_seconds", "eval_accuracy"}


def charts_of(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The charts with any value, as plain data; metrics that no chart names get one each."""
    lines = [lines_of(run) for run in runs]
    keys = sorted({key for found in lines for line in found for key in line})
    named = {key for chart in CHARTS for pattern in chart.keys for key in matching(pattern, keys)}
    others = [Chart(label(key), "", {key: label(key)}) for key in keys if key not in named | NOT_DRAWN]
    made = (drawn(chart, keys, runs, lines) for chart in (*CHARTS, *others))
    return [chart for chart in made if chart["series"]][:MOST_CHARTS]


def drawn(
    chart: Chart, keys: Sequence[str], runs: Sequence[RunRecord], lines: Sequence[list[Line]]
) -> dict[str, Any]:
    """A chart with the series of all runs on one axis of steps."""
    found = []
    for index, (run, of_run) in enumerate(zip(runs, lines, strict=True)):
        for key, name in series_names(chart, keys)[: MOST_SERIES if len(runs) == 1 else 1]:
            points = points_of(of_run, key, chart.unit)
            if any(value is not None for value in points[1]):
                told = name if len(runs) == 1 else run.name
                found.append((told, index, points, key == "eval_accuracy"))
    axis = sorted({step for _, _, (steps, _), _ in found for step in steps})
    made: list[dict[str, Any]] = []
    for color, (name, index, points, has_interval) in enumerate(found):
        made.append({"label": label(name), "color": color % MOST_SERIES, "y": on_axis(points, axis)})
        if has_interval and len(runs) < 4:
            low, high = intervals(runs[index])
            made[-1] |= {"low": on_axis(low, axis), "high": on_axis(high, axis)}
    return {"title": chart.title, "about": chart.about, "unit": chart.unit, "x": axis, "series": made}


def series_names(chart: Chart, keys: Sequence[str]) -> list[tuple[str, str]]:
    """(key, label) of a chart's metrics that the logs have."""
    pairs = [(key, chart.keys[pattern]) for pattern in chart.keys for key in matching(pattern, keys)]
    pairs = [(key, name or key.partition("/")[2]) for key, name in pairs]
    rewards = [key for key, _ in pairs if key.startswith("rewards/")]
    # With one reward of weight 1 its curve would lie under the mean reward's.
    return pairs if len(rewards) != 1 else [pair for pair in pairs if pair[0] != rewards[0]] or pairs


def matching(pattern: str, keys: Iterable[str]) -> list[str]:
    """The keys that a pattern names."""
    if not pattern.endswith("/*"):
        return [key for key in keys if key == pattern]
    return [key for key in keys if key.startswith(pattern[:-1])]


def lines_of(run: RunRecord) -> list[Line]:
    """A run's lines of steps, thinned, and of evaluations, with the share of groups that teach."""
    kept = thinned(run.steps)
    equal = [number(line, "zero_std_fraction") for line in kept]
    steps = [
        line if e is None else {**line, "teaching_fraction": 1.0 - e}
        for line, e in zip(kept, equal, strict=True)
    ]
    return [*steps, *thinned(run.evaluations)]


def thinned(lines: list[Line]) -> list[Line]:
    """At most about MOST_POINTS lines: at equal distances, the last, and those with a mark."""
    if len(lines) <= MOST_POINTS:
        return lines
    stride = math.ceil(len(lines) / MOST_POINTS)
    marked = {id(line) for line in [line for line in lines if marks_of_line(line)][:MOST_MARKS]} | {
        id(lines[-1])
    }
    return [line for index, line in enumerate(lines) if index % stride == 0 or id(line) in marked]


def points_of(lines: Iterable[Line], key: str, unit: str) -> Points:
    """Steps and values of a metric; shares × 100."""
    pairs = [(line["step"], number(line, key)) for line in lines if key in line]
    scale = 100.0 if unit == "%" else 1.0
    return [step for step, _ in pairs], [rounded(value, scale) for _, value in pairs]


def intervals(run: RunRecord) -> tuple[Points, Points]:
    """Lower and upper ends of the accuracy's 95 % interval, in percent."""
    lines = thinned(run.evaluations)
    steps = [line["step"] for line in lines]
    ends = [accuracy_interval(line) or (None, None) for line in lines]
    return (steps, [rounded(low, 100.0) for low, _ in ends]), (
        steps,
        [rounded(high, 100.0) for _, high in ends],
    )


def on_axis(points: Points, axis: Sequence[int]) -> list[float | None]:
    """The values at the axis' steps; None between them."""
    values = dict(zip(*points, strict=True))
    return [values.get(step) for step in axis]


def rounded(value: float | None, scale: float = 1.0) -> float | None:
    """A value to DIGITS significant digits, to keep the page small."""
    return None if value is None else float(f"{scale * value:.{DIGITS}g}")
