"""Checks of a run's updates: gradient norm, skipped updates, KL to the reference, and time per step."""

import statistics
from collections.abc import Iterator
from typing import Any

from grpo_cli.doctor.checks.run.run_log import blamed_rate, logged_steps, lower_rate, too_few
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.run_log import first_third, last_third, number, percent, series, short, step_number
from grpo_cli.engine.guards.nothing_learned import FEWEST_STEPS
from grpo_cli.foreign_text import quoted
from grpo_cli.words import plural

HIGH_GRAD_NORM = 10.0  # the guide's limit; 0.1 to 1.2 while the embedded model learns
STAYS = 0.5  # of the last third's steps
STOPPED = 3  # skipped updates in a row that stop the training
NAN_RATE = 1e-6  # the guide's learning rate after a NaN
# Nats per token. The embedded model changes from one style of reasoning to the other within 0.1 (mean of a
# step, adapters at 1e-3). Beyond 1 the policy shares hardly a token with the reference.
HIGH_KL = 0.5
GROWING_KL = 0.1  # growth below it is ordinary learning
LARGE_SHARE = 0.5  # of the time
FEW_TO_TIME = 20  # steps; in shorter runs the first and last evaluations take much of the time
WORTH_SAVING = 60.0  # seconds; less is not worth a warning


def grad_norm_high(context: Context) -> Iterator[Finding]:
    """No gradient norm is above 10."""
    steps = [line for line in logged_steps(context) if number(line, "grad_norm") is not None]
    if not steps:
        yield from too_few(context, "grad-norm-high", 0, fewest=1)
        return
    highest = max(steps, key=lambda line: number(line, "grad_norm") or 0.0)
    most = number(highest, "grad_norm") or 0.0
    is_high = [(number(line, "grad_norm") or 0.0) > HIGH_GRAD_NORM for line in steps]
    late = statistics.fmean(last_third(is_high))
    seen = f"highest gradient norm {most:.3g}, in step {step_number(highest)}"
    facts = {"highest": most, "steps_above": sum(is_high), "late_share": late}
    if not any(is_high):
        yield ok(seen, **facts)
        return
    stays = (
        f"and it stays so ({percent(late)} of the last steps)" if late >= STAYS else "and it came down again"
    )
    words = blamed_rate(context) or (
        "the updates are too large: lower the learning rate"
        if late >= STAYS
        else "each was clipped to max_grad_norm; if it happens again, lower the learning rate"
    )
    yield warning(
        f"{seen}; above {HIGH_GRAD_NORM:g} in {sum(is_high)} of {plural(len(steps), 'step')}, {stays}",
        words,
        lower_rate(context),
        "max_grad_norm = 1.0",
        **facts,
    )


def nan_gradient(context: Context) -> Iterator[Finding]:
    """No update was skipped because of NaN."""
    steps = logged_steps(context)
    if not steps:
        yield from too_few(context, "nan-gradient", 0, fewest=1)
        return
    broken = [line for line in steps if line.get("skipped")]
    in_a_row = longest_row(broken)
    if not broken:
        yield ok(f"no update of {len(steps)} was skipped", skipped_updates=0)
        return
    first = broken[0]
    seen = (
        f"{len(broken)} of {len(steps)} updates were skipped, at most {in_a_row} in a row; the first in step "
        f"{step_number(first)}: NaN or infinite {short(first['skipped'])}"
    )
    words = blamed_rate(context) or (
        "resume from the last good state with a lower learning rate; start a new run in float32 if memory "
        "allows"
    )
    lines = [
        f"grpo resume {quoted(context.run)} --set {lower_rate(context, NAN_RATE).replace(' ', '')}",
        lower_rate(context, NAN_RATE),
        "max_grad_norm = 0.1",
    ]
    if context.run_config is None or context.run_config.dtype != "float32":
        lines.append('dtype = "float32"')
    kind = error if in_a_row >= STOPPED else warning
    where = short(first["skipped"])
    yield kind(seen, words, *lines, skipped_updates=len(broken), in_a_row=in_a_row, where=where)


def longest_row(broken: list[dict[str, Any]]) -> int:
    """The longest run of consecutive steps whose updates were skipped."""
    longest = row = 0
    previous = None
    for step in map(step_number, broken):
        row = row + 1 if previous is not None and step == previous + 1 else 1
        longest, previous = max(longest, row), step
    return longest


def kl_high(context: Context) -> Iterator[Finding]:
    """The policy stays near its reference."""
    steps = logged_steps(context)
    kls = series(steps, "kl")
    if steps and all(line.get("kl") is None for line in steps):
        yield skipped("the run had no reference to compare with: kl_coeff = 0")
        return
    if steps and not kls:
        yield skipped("no logged KL is a finite number: see run-log and nan-gradient")
        return
    if len(kls) < FEWEST_STEPS:
        yield from too_few(context, "kl-high", len(kls))
        return
    begun, now = statistics.fmean(first_third(kls)), statistics.fmean(last_third(kls))
    rewards = series(steps, "reward_mean")
    fell = bool(rewards) and statistics.fmean(last_third(rewards)) < statistics.fmean(first_third(rewards))
    seen = f"KL {now:.3g} nats a token in the last {len(last_third(kls))} steps ({begun:.3g} at the start)"
    runs_away = now > GROWING_KL and now > 2 * begun and fell
    if now <= HIGH_KL and not runs_away:
        yield ok(seen, kl=now, start=begun)
        return
    worse = ", while the rewards fell" if fell else ""
    coefficient = context.run_config.kl_coeff if context.run_config else 0.0
    words = (
        blamed_rate(context)
        or "the policy moves away from its reference: raise `kl_coeff` or lower the learning rate"
    )
    lines = [lower_rate(context), f"kl_coeff = {max(0.04, 2 * coefficient):g}"]
    yield warning(seen + worse, words, *lines, kl=now, start=begun)


def time_split(context: Context) -> Iterator[Finding]:
    """The split of a step's time into rollouts, update and the rest."""
    steps = logged_steps(context)
    whole = seconds_of(steps, "step_seconds")
    if not whole:
        yield from too_few(context, "time-split", 0, fewest=1)
        return
    seconds = usual_step(steps)
    evaluating = sum(seconds_of(context.evaluations, "eval_seconds"))
    between = evaluating / (evaluating + sum(whole))
    seen = told_seconds(steps, seconds)
    seen += f"; evaluations take {percent(between)} of the run" if evaluating else ""
    facts = {f"{part}_seconds": value for part, value in seconds.items()} | {"evaluation_share": between}
    long_enough = len(whole) >= FEW_TO_TIME
    if long_enough and between > LARGE_SHARE and evaluating > WORTH_SAVING:
        yield warning(seen, "evaluate less often, or on fewer examples", *fewer_evaluations(context), **facts)
    elif long_enough and seconds["rest"] * len(whole) > max(LARGE_SHARE * sum(whole), WORTH_SAVING):
        words = (
            "the rest is rewards, and the reference's logprobs: check whether a reward waits for something"
        )
        yield warning(seen, words, *no_reference(context), **facts)
    else:
        yield ok(f"{seen}\n{larger_part(context, seconds)}", **facts)


def seconds_of(lines: list[dict[str, Any]], key: str) -> list[float]:
    """A key's times in seconds, without zeros."""
    return [value for value in series(lines, key) if value > 0]


def usual_step(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of the median step, divided among its parts by their shares of the whole run."""
    whole = seconds_of(steps, "step_seconds")
    step = statistics.median(whole)
    parts = {"rollouts": "rollout_seconds", "update": "update_seconds"}
    shares = {part: sum(seconds_of(steps, key)) / sum(whole) for part, key in parts.items()}
    shares["rest"] = max(0.0, 1 - sum(shares.values()))
    return {"step": step, **{part: share * step for part, share in shares.items()}}


def told_seconds(steps: list[dict[str, Any]], seconds: dict[str, float]) -> str:
    """Text on a step's time: its parts' shares, the speed of rollouts and the peak memory."""
    speeds, peaks = series(steps, "rollout_tokens_per_second"), series(steps, "peak_memory_gb")
    parts = (f"{part} {percent(seconds[part] / seconds['step'])}" for part in ("rollouts", "update", "rest"))
    told = f"{seconds['step']:.3g} s a step: {', '.join(parts)}"
    told += f"; {statistics.median(speeds):.0f} tokens/s" if speeds else ""
    return told + (f", at most {max(peaks):.1f} GB" if peaks else "")


def no_reference(context: Context) -> list[str]:
    """The TOML line that does without a reference; none if the run has no reference."""
    return ["kl_coeff = 0.0"] if context.run_config and context.run_config.kl_coeff > 0 else []


def larger_part(context: Context, seconds: dict[str, float]) -> str:
    """Advice on speed: the larger of rollouts and update, and the keys that shorten it."""
    config = context.run_config
    if seconds["rollouts"] >= seconds["update"]:
        now = f" (now {config.max_new_tokens} and {config.num_generations})" if config else ""
        return f"rollouts are the larger part: `max_new_tokens` and `num_generations` shorten them{now}"
    now = f" (now {config.batch_size})" if config else ""
    return f"the update is the larger part: fewer `num_generations`, or LoRA; `batch_size` sets its rows{now}"


def fewer_evaluations(context: Context) -> list[str]:
    """TOML lines that halve the time of evaluations."""
    config = context.run_config
    lines = [f"eval_steps = {2 * config.eval_steps if config and config.eval_steps else 50}"]
    if config is None or config.eval_samples > 100 or config.eval_samples == 0:
        lines.append("eval_samples = 100")
    return lines
