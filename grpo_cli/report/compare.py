"""Several runs side by side: their results, the keys that differ, and paired tests of their accuracy.

    results_of(runs)    # [{"name": "accuracy after", "values": ["91.5 %", "88.0 %"]}, …]
    pairs_of(runs)      # ["b against a: better, +4.5 points (95 %: +1.0 to +8.5; p = 0.012)"]

Two runs are paired if their last evaluations have the same number of problems, and the same settings chose
them. The test is that of `grpo eval --compare` (engine/evaluation/intervals.py).
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from grpo_cli.doctor.read.run_log import first_third, last_third, number, series
from grpo_cli.report.read import RunRecord, share
from grpo_cli.report.sentence import equal_share, paired, seconds_in_words, seconds_of

# Keys that decide which problems an evaluation asks, and what counts as right.
SAME_PROBLEMS = (
    "dataset", "dataset_config", "eval_split", "eval_samples", "eval_reward", "prompt_column",
    "answer_column", "system_prompt", "completion_prefix", "max_prompt_length",
)  # fmt: skip


def results_of(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Rows of results, a value for each run; rows without any value are left out."""
    rows = {
        "accuracy before": [accuracy(run, 0) for run in runs],
        "accuracy after": [accuracy(run, -1) for run in runs],
        "best accuracy": [best(run) for run in runs],
        "mean reward, last step": [last_reward(run) for run in runs],
        "groups that teach": [percent(taught(run)) for run in runs],
        "steps": [str(run.steps[-1]["step"]) if run.steps else "–" for run in runs],
        "time": [seconds_in_words(seconds_of(run)) if run.steps else "–" for run in runs],
        "finished": ["yes" if run.is_finished else "no" for run in runs],
    }
    return [{"name": name, "values": values} for name, values in rows.items() if set(values) != {"–"}]


def pairs_of(runs: Sequence[RunRecord]) -> list[str]:
    """A sentence for each later run that can be paired with the first one."""
    first, *others = runs
    return [sentence for other in others if (sentence := pair(first, other))]


def pair(first: RunRecord, other: RunRecord) -> str:
    """The comparison of the last evaluations of two runs; empty if they asked different problems."""
    if not (first.evaluations and other.evaluations):
        return ""
    if any(first.settings.get(key) != other.settings.get(key) for key in SAME_PROBLEMS):
        return ""
    result = paired(first.evaluations[-1], other.evaluations[-1])
    if result is None:
        return ""
    points, (low, high) = 100 * result.difference, (100 * end for end in result.interval)
    chance = "p < 0.001" if result.p < 0.001 else f"p = {result.p:.3f}"
    return (
        f"{other.name} against {first.name}: {result.verdict}, {points:+.1f} points "
        f"(95 %: {low:+.1f} to {high:+.1f}; {chance})"
    )


def accuracy(run: RunRecord, place: int) -> str:
    """The accuracy of the first (0) or last (−1) evaluation."""
    return percent(share(run.evaluations[place], "eval_accuracy")) if run.evaluations else "–"


def best(run: RunRecord) -> str:
    """The highest accuracy and its step."""
    found = [(share(line, "eval_accuracy") or 0.0, -line["step"]) for line in run.evaluations]
    if not found:
        return "–"
    highest, step = max(found)
    return f"{percent(highest)} (step {-step})"


def last_reward(run: RunRecord) -> str:
    """The mean reward of the last step that has one."""
    rewards = series(run.steps, "reward_mean")
    return f"{rewards[-1]:.3g}" if rewards else "–"


def taught(run: RunRecord) -> float | None:
    """Mean share of the groups whose rewards differed."""
    equal = equal_share(run)
    return None if equal is None else 1.0 - equal


def percent(value: float | None) -> str:
    """A share in percent with one decimal; a dash if it is unknown."""
    return "–" if value is None else f"{100 * value:.1f} %"


def tiles_of(run: RunRecord) -> list[tuple[str, str]]:
    """(name, value) of the numbers at the top of a run's page, without unknown ones."""
    speed, memory = series(run.steps, "rollout_tokens_per_second"), series(run.steps, "peak_memory_gb")
    samples = number(run.evaluations[-1], "eval_samples") if run.evaluations else None
    found = [
        ("accuracy" + (f", {samples:,.0f} problems" if samples else ""), change(run)),
        ("reward, first → last third", reward_change(run)),
        ("groups that teach", percent(taught(run))),
        ("steps", f"{run.steps[-1]['step']:,}" if run.steps else "–"),
        ("time", seconds_in_words(seconds_of(run)) if run.steps else "–"),
        ("tokens/s", f"{sum(speed) / len(speed):,.0f}" if speed else "–"),
        ("peak memory", f"{max(memory):.2f} GB" if memory else "–"),
    ]
    return [(name, value) for name, value in found if value != "–"]


def reward_change(run: RunRecord) -> str:
    """The mean reward of the first and of the last third of the steps: 1.34 → 1.71."""
    rewards = series(run.steps, "reward_mean")
    if len(rewards) < 3:
        return f"{rewards[-1]:.2f}" if rewards else "–"
    return f"{fmean(first_third(rewards)):.2f} → {fmean(last_third(rewards)):.2f}"


def change(run: RunRecord) -> str:
    """The accuracy before and after: 39.0 → 100.0 %."""
    if len(run.evaluations) < 2:
        return accuracy(run, -1)
    return f"{accuracy(run, 0).removesuffix(' %')} → {accuracy(run, -1)}"
