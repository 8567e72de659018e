"""Checks of a run's progress: changes of accuracy and reward that exceed chance."""

import statistics
from collections.abc import Iterator, Sequence
from math import ceil, sqrt

from grpo_cli.doctor.checks.run.run_log import (
    accuracies,
    blamed_rate,
    logged_steps,
    lower_rate,
    model_name,
    too_few,
)
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.run_log import first_third, last_third, percent, series
from grpo_cli.engine.guards.nothing_learned import FEWEST_STEPS, SOLVED
from grpo_cli.foreign_text import quoted
from grpo_cli.words import plural

CLEAR = 3.0  # standard errors by which thirds of a run must differ
COLLAPSE_DROP = 0.4  # drop that counts as a collapse, as a share of the best third's mean reward
ENOUGH_STEPS = 12  # so that each third's spread can be estimated
# Accuracy may be flat before this step: the embedded model's moves between steps 10 and 20 (4 seeds).
EARLY = 20
# It may also be flat before so many completions, unless the run is over: with 4 per step it moves after
# 30 to 45 steps.
FEW_COMPLETIONS = 500
ENOUGH_EVALUATIONS = 3
SMALLEST_GAIN = 0.03  # of accuracy; smaller gains are not worth detecting
DISCORDANT = 0.25  # share of examples on which two models differ: variance of the paired difference


def collapse(context: Context) -> Iterator[Finding]:
    """Rewards and accuracy have not collapsed."""
    rewards, evaluated = series(logged_steps(context), "reward_mean"), accuracies(context)
    if len(rewards) < FEWEST_STEPS and len(evaluated) < 2:
        yield from too_few(context, "collapse", len(rewards))
        return
    accuracy_lost, reward_lost = fallen_accuracy(evaluated), fallen_rewards(rewards)
    told = "; ".join(text for text in (told_accuracy(evaluated), told_rewards(rewards)) if text)
    facts = {"accuracies": [a for _, a, _ in evaluated], "late_reward": mean_of_last(rewards)}
    if not accuracy_lost and not reward_lost:
        yield ok(told, **facts)
        return
    words = blamed_rate(context) or (
        "the model loses what it could do before: lower the learning rate, keep it near its reference, and "
        "see in completions.jsonl what the rewards favor"
    )
    worse = below_the_start(evaluated) or dead(rewards)
    kind = error if worse else warning
    yield kind(
        told, words, lower_rate(context), *held(context), *best_checkpoint(context, evaluated), **facts
    )


def fallen_accuracy(evaluated: Sequence[tuple[int, float, int]]) -> bool:
    """True if the last evaluation's interval lies below the best one's."""
    if len(evaluated) < 2:
        return False
    best = max(evaluated, key=lambda one: one[1])
    return interval(evaluated[-1])[1] < interval(best)[0]


def below_the_start(evaluated: Sequence[tuple[int, float, int]]) -> bool:
    """True if the last evaluation's interval lies below the first one's."""
    return len(evaluated) > 1 and interval(evaluated[-1])[1] < interval(evaluated[0])[0]


def interval(one: tuple[int, float, int]) -> tuple[float, float]:
    """Wilson interval of an evaluation's accuracy. `one`: step, accuracy, number of examples."""
    from grpo_cli.engine.evaluation.intervals import wilson_interval

    _, accuracy, samples = one
    return wilson_interval(round(accuracy * samples), samples)


def dead(rewards: Sequence[float]) -> bool:
    """True if the run had rewards above 0 and the last third has only zeros."""
    return len(rewards) >= FEWEST_STEPS and max(rewards) > 0 and not any(last_third(rewards))


def fallen_rewards(rewards: Sequence[float]) -> bool:
    """True if the last third's mean reward is clearly below the best earlier third's."""
    if dead(rewards):
        return True
    if len(rewards) < ENOUGH_STEPS:
        return False
    size = len(rewards) // 3
    best = max(rewards[:size], rewards[size : 2 * size], key=statistics.fmean)
    late = rewards[-size:]
    lost = statistics.fmean(best) - statistics.fmean(late)
    return lost > COLLAPSE_DROP * abs(statistics.fmean(best)) and rise(best, late) < -CLEAR


def rise(before: Sequence[float], after: Sequence[float]) -> float:
    """Welch's t of two samples: the difference of means in standard errors, clipped to ±100."""
    change = statistics.fmean(after) - statistics.fmean(before)
    doubt = sqrt(sum(statistics.variance(v) / len(v) for v in (before, after) if len(v) > 1))
    return max(-100.0, min(100.0, change / doubt)) if doubt > 0 else 100.0 * ((change > 0) - (change < 0))


def told_accuracy(evaluated: Sequence[tuple[int, float, int]]) -> str:
    """First, best and last accuracy with their intervals."""
    if not evaluated:
        return ""
    best = max(evaluated, key=lambda one: one[1])
    peak = [best] if best[1] > max(evaluated[0][1], evaluated[-1][1]) else []
    shown = [evaluated[0], *peak, *evaluated[1:][-1:]]
    return "accuracy " + ", then ".join(told_one(one) for one in shown)


def told_one(one: tuple[int, float, int]) -> str:
    """One evaluation with its interval: `39.0 % (32 to 46; step 0)`."""
    low, high = interval(one)
    return f"{100 * one[1]:.1f} % ({100 * low:.0f} to {100 * high:.0f}; step {one[0]})"


def told_rewards(rewards: Sequence[float]) -> str:
    """The mean reward at the start and at the end."""
    if not rewards:
        return ""
    begun = statistics.fmean(first_third(rewards))
    return f"mean reward {begun:.2f} at the start, {mean_of_last(rewards):.2f} at the end"


def mean_of_last(rewards: Sequence[float]) -> float | None:
    """Mean reward of the last third; None without rewards."""
    return statistics.fmean(last_third(rewards)) if rewards else None


def held(context: Context) -> list[str]:
    """The TOML line that adds a KL penalty; none if the run has one."""
    return [] if context.run_config and context.run_config.kl_coeff > 0 else ["kl_coeff = 0.04"]


def best_checkpoint(context: Context, evaluated: Sequence[tuple[int, float, int]]) -> list[str]:
    """The command that resumes from the best evaluation's checkpoint, if it exists."""
    best = max(evaluated, key=lambda one: one[1], default=None)
    folder = context.run / f"checkpoint-{best[0]}" if best and context.run else None
    if folder is None or not folder.is_dir():
        return []
    return [f"grpo resume {quoted(folder)} --set {lower_rate(context).replace(' ', '')}"]


def accuracy_flat(context: Context) -> Iterator[Finding]:
    """Accuracy changes by more than chance."""
    evaluated, steps = accuracies(context), logged_steps(context)
    made = plural(len(evaluated), "evaluation")
    if len(evaluated) < 2:
        if steps or evaluated or "accuracy-flat" in context.asked:
            yield skipped(f"{made}: two are needed; `eval_steps` sets how often they are made")
        return
    first, last = evaluated[0], evaluated[-1]
    seen = told_accuracy(evaluated)
    facts = {"first": first[1], "last": last[1], "samples": last[2]}
    rewards = series(steps, "reward_mean")
    if first[1] >= SOLVED:
        yield ok(f"{seen}: nearly all was right from the start", **facts)
    elif interval(last)[0] > interval(first)[1] or fallen_accuracy(evaluated):
        yield ok(seen, **facts)
    elif last[0] < EARLY or len(evaluated) < ENOUGH_EVALUATIONS or is_young(context, last[0]):
        yield skipped(f"{seen}: too early to say, after {plural(last[0], 'step')} and {made}")
    elif len(rewards) >= FEWEST_STEPS and rise(first_third(rewards), last_third(rewards)) > CLEAR:
        yield ok(f"{seen}; {told_rewards(rewards)}: sampled completions improve first", **facts)
    else:
        yield flat(context, seen, first, last)


def is_young(context: Context, step: int) -> bool:
    """True if an unfinished run has sampled too few completions by `step` to judge its accuracy."""
    config = context.run_config
    if config is None or (context.run and (context.run / "final").is_dir()):
        return False
    return step * config.prompts_per_step * config.num_generations < FEW_COMPLETIONS


def flat(context: Context, seen: str, first: tuple[int, float, int], last: tuple[int, float, int]) -> Finding:
    """The warning for a run whose accuracy changed by no more than chance, with the examples needed."""
    gain = max(abs(last[1] - first[1]), SMALLEST_GAIN)
    enough = 100 * ceil(1.96**2 * DISCORDANT / gain**2 / 100)
    words = (
        f"the difference is within chance on {last[2]} examples. {enough} examples, the same ones for both, "
        f"tell {percent(gain)} of accuracy apart; if that finds nothing, the run learns too slowly"
    )
    final, file = quoted(f"{context.run}/final"), quoted(f"{context.run}/config.toml")
    compare = f"grpo eval --model {final} --compare {model_name(context)} --config {file}"
    return warning(
        f"{seen}: no change beyond its interval",
        words,
        f"{compare} --samples {enough}",
        f"eval_samples = {enough}",
        first=first[1],
        last=last[1],
        samples=last[2],
        samples_needed=enough,
    )
