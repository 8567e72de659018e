"""Checks of a run's rewards: non-zero, different within groups, and of a usual size."""

import statistics
from collections.abc import Iterator
from typing import Any

from grpo_cli.config.rules import COLD
from grpo_cli.doctor.checks.run.run_log import (
    blamed_rate,
    logged_steps,
    lower_rate,
    model_name,
    solved,
    too_few,
)
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.run_log import first_third, last_third, number, percent, series, short, step_number
from grpo_cli.engine.guards.nothing_learned import (
    BEST,
    FEWEST_STEPS,
    GUIDE_TEMPERATURE,
    equal_cures,
    every,
    more_to_learn_from,
    unscored_words,
    zero_words,
)
from grpo_cli.foreign_text import quoted
from grpo_cli.words import plural

HIGH_REWARD = 10.0  # the guide's limit
# Share of groups whose rewards are all equal: 0.25 to 0.56 while the embedded model learns, up to 0.9 once
# it is right, 1 if all rewards are the same.
FEW_DIFFER = 0.8
ENOUGH_GROUPS = 20  # among fewer, equal rewards can be chance
# Nats per token. The embedded model: 0.03 before training, 0.005 after; at most 2e-4 at temperature 0.001.
NO_ENTROPY = 0.001


def rewards_zero(context: Context) -> Iterator[Finding]:
    """Rewards do not stay at zero."""
    steps = logged_steps(context)
    means = series(steps, "reward_mean")
    if not means and is_unscored(steps):
        seen = f"no reward applies to any completion of {every(len(steps))}"
        yield error(seen, unscored_words(), steps=len(steps), unscored_fraction=1.0)
        return
    if len(means) < FEWEST_STEPS:
        yield from too_few(context, "rewards-zero", len(means))
        return
    late = last_third(steps)
    nothing = all(number(line, "reward_mean") == 0 and not number(line, "reward_std") for line in late)
    if not nothing or min(means) < 0:  # penalties that ended: 0 is the best there is
        average = statistics.fmean(last_third(means))
        yield ok(f"mean reward {average:.2f} in the last {len(late)} steps", reward_mean=average)
    elif any(means):
        since = step_number(steps[max(i for i, line in enumerate(steps) if number(line, "reward_mean"))])
        seen = f"the mean reward is 0 in all steps after step {since}"
        yield warning(seen, *zero_cures(context, fell=True), since=since, reward_mean=0.0)
    else:
        seen = f"the mean reward is 0 in {every(len(means))}: {components(steps)}"
        yield error(seen, *zero_cures(context, fell=False), steps=len(means), reward_mean=0.0)


def is_unscored(steps: list[dict[str, Any]]) -> bool:
    """True if there are steps enough, and in all of them every reward returned None for every completion."""
    return len(steps) >= FEWEST_STEPS and all(number(line, "unscored_fraction") == 1 for line in steps)


def components(steps: list[dict[str, Any]]) -> str:
    """Reward functions with their means over the run: `correctness 0.3, format 0.9`."""
    names = sorted({key for line in steps for key in line if key.startswith("rewards/")})
    averages = {name: series(steps, name) for name in names}
    told = [f"{short(name)} {statistics.fmean(v):.3g}" for name, v in averages.items() if v]
    return ", ".join(told[:8]) or "no reward function is named in the log"


def zero_cures(context: Context, fell: bool) -> list[str]:
    """Cures for rewards that are all 0: text, then commands and TOML lines. `fell`: once they were not."""
    lines = [shown_completion(context)] if shown_completion(context) else []
    if fell:
        words = blamed_rate(context) or "the rewards disappeared during the run, so its updates caused this"
        return [f"{words}; start again with a lower learning rate", lower_rate(context), *lines]
    words = zero_words(last_third(series(logged_steps(context), "truncated_fraction")))
    return [words, *more_to_learn_from(context.run_config), *lines, sampled_evaluation(context)]


def shown_completion(context: Context) -> str:
    """The last logged completion with its reward, as a shell comment; empty if none is logged."""
    for line in reversed(context.completions):
        if isinstance(line.get("completion"), str):
            step, reward = number(line, "step"), number(line, "reward")
            told = f"step {step:.0f}, " if step is not None else ""
            told += f"reward {reward:g}, " if reward is not None else ""
            wanted = short(line.get("answer", "?"), 30)
            # Quoted, because a shell without comments must not run text that a model wrote.
            return "# " + quoted(f"{told}right answer {wanted}: {short(line['completion'], 200)}")
    return ""


def sampled_evaluation(context: Context) -> str:
    """The evaluation command that samples eight completions per prompt."""
    file = quoted(f"{context.run}/config.toml")
    return f"grpo eval --model {model_name(context)} --config {file} --num-generations 8"


def nothing_to_learn(context: Context) -> Iterator[Finding]:
    """Rewards differ within groups."""
    steps = logged_steps(context)
    equal = series(steps, "zero_std_fraction")
    if is_unscored(steps):
        yield skipped("no reward applies to any completion: see `rewards-zero`")
        return
    if len(equal) < FEWEST_STEPS:
        yield from too_few(context, "nothing-to-learn", len(equal))
        return
    late = last_third(equal)
    share = statistics.fmean(late)
    seen = f"all rewards are equal in {percent(share)} of the groups of the last {len(late)} steps"
    by_chance = groups_of(context, len(late)) < ENOUGH_GROUPS and min(equal) < 1
    by_batch = context.run_config and context.run_config.advantage_estimator == "reinforce_plus_plus"
    if share <= FEW_DIFFER or by_chance or by_batch:
        yield ok(seen, zero_std_fraction=share)
    elif learned := solved(context) or at_the_top(context):
        yield ok(f"{seen}: nothing is left to learn ({learned})", zero_std_fraction=share)
    else:
        yield warning(f"{seen}: they teach nothing", *equality_cures(context), zero_std_fraction=share)


def groups_of(context: Context, steps: int) -> int:
    """Number of groups in `steps` steps; ENOUGH_GROUPS if the run's configuration is unknown."""
    return steps * context.run_config.prompts_per_step if context.run_config else ENOUGH_GROUPS


def equality_cures(context: Context) -> list[str]:
    """Cures for groups with equal rewards: a lower learning rate if it is to blame, else more variety."""
    if blamed := blamed_rate(context):
        return [blamed, lower_rate(context)]
    rewards = last_third(series(logged_steps(context), "reward_mean"))
    cures = equal_cures(context.run_config, rewards)
    is_cold = context.run_config is not None and context.run_config.temperature < COLD
    all_zero = bool(rewards) and not any(rewards)
    return cures if is_cold or all_zero else [*cures, sampled_evaluation(context)]


def at_the_top(context: Context) -> str:
    """The evidence that rewards rose to their maximum, for runs without a correctness reward; else empty."""
    steps = logged_steps(context)
    if any(f"rewards/{reward}" in line for line in steps for reward in BEST):
        return ""
    means = series(steps, "reward_mean")
    if not means or statistics.fmean(first_third(series(steps, "zero_std_fraction"))) > FEW_DIFFER:
        return ""
    highest = max([*means, *series(context.completions, "reward")])
    begun, now = statistics.fmean(first_third(means)), statistics.fmean(last_third(means))
    return f"mean reward {now:.2f} of at most {highest:.2f}" if now > begun and now > 0.98 * highest else ""


def identical_completions(context: Context) -> Iterator[Finding]:
    """The completions of a group differ."""
    steps = logged_steps(context)
    entropies = series(steps, "entropy")
    if len(entropies) < FEWEST_STEPS:
        yield from too_few(context, "identical-completions", len(entropies))
        return
    entropy = statistics.fmean(last_third(entropies))
    temperature = context.run_config.temperature if context.run_config else None
    same, groups = identical_groups(context)
    facts = {"entropy": entropy, "temperature": temperature, "identical_groups": same, "groups": groups}
    seen = f"entropy {entropy:.2g} nats a token in the last {len(last_third(entropies))} steps"
    if temperature is not None:
        seen += f" at temperature {temperature:g}"
    if groups:
        seen += f"; {same} of {groups} logged groups are the same text throughout"
    if temperature is not None and temperature < COLD:
        words = f"temperature = {temperature:g} samples the same completion again and again: raise it"
        worthless = statistics.fmean(series(steps, "zero_std_fraction") or [0.0]) >= 0.99
        kind = error if worthless else warning
        yield kind(seen, words, f"temperature = {GUIDE_TEMPERATURE}", **facts)
    elif (entropy < NO_ENTROPY or same == groups > FEWEST_STEPS) and not (
        solved(context) or at_the_top(context)
    ):
        words = (
            "the policy became certain before it was right: raise the temperature and lower the learning rate"
        )
        hotter = max(1.0, 1.5 * (temperature or 0.0))
        yield warning(seen, words, f"temperature = {hotter:g}", lower_rate(context), **facts)
    else:
        yield ok(seen, **facts)


def identical_groups(context: Context) -> tuple[int, int]:
    """Logged groups whose completions are all the same text, and logged groups of two or more completions."""
    groups: dict[tuple[str, str], list[str]] = {}
    for line in context.completions:
        if isinstance(line.get("completion"), str):
            key = (repr(line.get("step")), repr(line.get("prompt")))
            groups.setdefault(key, []).append(line["completion"])
    several = [completions for completions in groups.values() if len(completions) > 1]
    return sum(len(set(completions)) == 1 for completions in several), len(several)


def reward_high(context: Context) -> Iterator[Finding]:
    """No mean reward is above 10 if several are summed."""
    steps = [line for line in logged_steps(context) if number(line, "reward_mean") is not None]
    if not steps:
        yield from too_few(context, "reward-high", 0, fewest=1)
        return
    highest = max(steps, key=lambda line: number(line, "reward_mean") or 0.0)
    most = number(highest, "reward_mean") or 0.0
    above = sum((number(line, "reward_mean") or 0.0) > HIGH_REWARD for line in steps)
    seen = f"highest mean reward {most:.4g}, in step {step_number(highest)}"
    is_alone = sum(key.startswith("rewards/") for key in highest) == 1  # a single reward drowns no other
    if not above or is_alone:
        yield ok(seen, highest=most, steps_above=above)
        return
    words = (
        f"a reward this large drowns the others: scale {largest_component(highest)} to about 1; if it is "
        "an unbounded count or length, bound it in its function"
    )
    seen += f"; above {HIGH_REWARD:g} in {above} of {plural(len(steps), 'step')}"
    yield warning(seen, words, scaled_weights(context, highest), highest=most, steps_above=above)


def largest_component(line: dict[str, Any]) -> str:
    """Name of the reward function with the largest mean in a step."""
    values = {k: v for k in line if k.startswith("rewards/") if (v := number(line, k)) is not None}
    return short(max(values, key=lambda name: values[name])) if values else "it"


def scaled_weights(context: Context, line: dict[str, Any]) -> str:
    """The TOML line of `reward_weights` that scales every reward above 10 to about 1."""
    values = [number(line, key) for key in line if key.startswith("rewards/")]
    config = context.run_config
    weights = config.reward_weight_list if config and len(config.reward_weight_list) == len(values) else None
    scaled = []
    for weight, value in zip(weights or [1.0] * len(values), values, strict=True):
        large = value is not None and abs(weight * value) > HIGH_REWARD
        scaled.append(float(f"{1 / abs(value):.1g}") if large and value else weight)
    return f"reward_weights = {scaled}" if scaled else "reward_weights = [0.1]"
