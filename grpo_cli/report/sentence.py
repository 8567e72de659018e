"""The result of a run in one sentence, from its numbers.

    "Accuracy rose from 39.0 to 100.0 % (95 % interval 98–100, 200 problems, better than before training) in
    40 steps, 27 s; 88 % of the groups taught."

An interval is Wilson's; "better" and "worse" are verdicts of the paired test of `grpo eval --compare` on the
items of the first and the last evaluation (engine/evaluation/intervals.py).
"""

import statistics
from typing import Any, Literal, NamedTuple

from grpo_cli.doctor.read.run_log import first_third, last_third, number, series
from grpo_cli.engine.evaluation.intervals import Comparison, compare_pairs, wilson_interval
from grpo_cli.report.read import RunRecord, share
from grpo_cli.words import plural

Tone = Literal["good", "bad", "plain"]

NOTHING = 0.95  # share of groups of equal rewards from which on a run had nothing to learn from
MOST_ITEMS = 100_000  # of an evaluation, in the paired test


class Sentence(NamedTuple):
    """A sentence, and its tone: `good` if something was learned, `bad` if nothing was or it got worse."""

    text: str
    tone: Tone


def result_of(run: RunRecord) -> Sentence:
    """The result of a run."""
    if not run.steps:
        return Sentence("No step is logged yet.", "plain")
    equal = equal_share(run)
    before, after = (run.evaluations[0], run.evaluations[-1]) if len(run.evaluations) > 1 else ({}, {})
    change = paired(before, after)
    better = change is not None and change.verdict == "better"
    if equal is not None and equal >= NOTHING and not better:
        share_of = "all" if equal == 1.0 else f"{100 * equal:.0f} %"
        return Sentence(
            f"Nothing was learned: in {share_of} of the groups all rewards were equal ({extent(run)}).", "bad"
        )
    if before:
        text, tone = of_accuracy(before, after, change)
    else:
        text, tone = of_reward(run)
    taught = "" if equal is None else f"; {100 * (1 - equal):.0f} % of the groups taught"
    ending = "" if run.is_finished else " The run is not finished."
    return Sentence(f"{text} in {extent(run)}{taught}.{ending}", tone)


def of_accuracy(before: dict[str, Any], after: dict[str, Any], change: Comparison | None) -> tuple[str, Tone]:
    """The change of accuracy between two evaluations, without its end."""
    old, new = 100 * (share(before, "eval_accuracy") or 0.0), 100 * (share(after, "eval_accuracy") or 0.0)
    items = number(after, "eval_samples")
    notes = []
    if items is not None and 1 <= items < 1 << 53:
        low, high = accuracy_interval(after) or (0.0, 1.0)
        notes = [f"95 % interval {100 * low:.0f}–{100 * high:.0f}", f"{items:,.0f} problems"]
    verdict = change.verdict if change else None
    if verdict in ("better", "worse"):
        notes.append(f"{verdict} than before training")
    elif verdict:
        notes.append("no significant difference")
    told = f" ({', '.join(notes)})" if notes else ""
    verb = "rose" if new > old else "fell" if new < old else ""
    text = f"Accuracy {verb} from {old:.1f} to {new:.1f} %" if verb else f"Accuracy stayed at {new:.1f} %"
    significant = verdict != "no significant difference"
    tone: Tone = "plain" if not verb or not significant else "good" if new > old else "bad"
    return text + told, tone


def of_reward(run: RunRecord) -> tuple[str, Tone]:
    """The change of the mean reward, between the first and the last third of the steps."""
    rewards = series(run.steps, "reward_mean")
    if not rewards:
        return "No reward is logged", "plain"
    if len(rewards) < 3:
        return f"The mean reward was {rewards[-1]:.3g}", "plain"
    old, new = statistics.fmean(first_third(rewards)), statistics.fmean(last_third(rewards))
    verb = "rose" if new > old else "fell" if new < old else "stayed"
    if verb == "stayed":
        return f"The mean reward stayed at {new:.3g}", "plain"
    text = f"The mean reward {verb} from {old:.3g} to {new:.3g} (first and last steps; no evaluation)"
    return text, "good" if new > old else "plain"


def accuracy_interval(line: dict[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of an evaluation's accuracy; None without its number of problems."""
    accuracy, items = share(line, "eval_accuracy"), number(line, "eval_samples")
    if accuracy is None or items is None or not 1 <= items < 1 << 53:
        return None
    return wilson_interval(round(accuracy * items), int(items))


def paired(before: dict[str, Any], after: dict[str, Any]) -> Comparison | None:
    """The paired test of two evaluations of the same items; None if they cannot be paired."""
    old, new = before.get("eval_right"), after.get("eval_right")
    if not (isinstance(old, str) and isinstance(new, str) and 0 < len(old) == len(new) <= MOST_ITEMS):
        return None
    if not set(old + new) <= {"0", "1"}:
        return None
    return compare_pairs([int(b) - int(a) for a, b in zip(old, new, strict=True)])


def equal_share(run: RunRecord) -> float | None:
    """Mean share of the groups whose rewards were all equal; None if it was not logged."""
    shares = [value for line in run.steps if (value := share(line, "zero_std_fraction")) is not None]
    return statistics.fmean(shares) if shares else None


def extent(run: RunRecord) -> str:
    """Steps and time: `40 steps, 27 s`."""
    return f"{plural(run.steps[-1]['step'], 'step')}, {seconds_in_words(seconds_of(run))}"


def seconds_of(run: RunRecord) -> float:
    """Time of the logged steps in seconds."""
    return sum(series(run.steps, "step_seconds"))


def seconds_in_words(seconds: float) -> str:
    """A time: 27 s, 3 min 05 s, 2 h 05 min."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
