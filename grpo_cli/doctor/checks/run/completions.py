"""Checks of a run's completions: length, truncation and repetition."""

import statistics
from collections.abc import Iterator

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
from grpo_cli.doctor.read.run_log import first_third, last_third, number, percent, series
from grpo_cli.engine.guards.nothing_learned import ALL_CUT, FEWEST_STEPS, GUIDE_NEW_TOKENS

SHRUNK = 0.2  # of the length at the start of the run
# The embedded model and SmolLM2 end nearly all completions with an end token (0 to 3 % cut off).
OFTEN_CUT = 0.2
# Mean share of repeated 4-grams: at most 0.031 in runs of the embedded model, whose worked sums are similar.
# "The capital of France is Paris." scores 0.33 when written twice and 0.71 when written four times.
LOOPS = 0.25


def length_collapse(context: Context) -> Iterator[Finding]:
    """The length of completions does not collapse."""
    steps = logged_steps(context)
    lengths, rewards = series(steps, "completion_length_mean"), series(steps, "reward_mean")
    if len(lengths) < FEWEST_STEPS:
        yield from too_few(context, "length-collapse", len(lengths))
        return
    begun, now = statistics.fmean(first_third(lengths)), statistics.fmean(last_third(lengths))
    rose = bool(rewards) and statistics.fmean(last_third(rewards)) > statistics.fmean(first_third(rewards))
    seen = f"{begun:.1f} tokens at the start, {now:.1f} at the end"
    if now >= SHRUNK * begun or rose or solved(context):
        better = ", with better rewards" if now < SHRUNK * begun else ""
        yield ok(seen + better, start=begun, end=now)
        return
    words = (
        blamed_rate(context)
        or "the policy learned to stop at once: lower the learning rate, keep it near "
        "its reference, and let no reward favor short completions by itself"
    )
    yield warning(seen, words, lower_rate(context), "kl_coeff = 0.04", start=begun, end=now)


def truncation(context: Context) -> Iterator[Finding]:
    """Completions end before max_new_tokens cuts them off."""
    steps = logged_steps(context)
    shares = series(steps, "truncated_fraction")
    if len(shares) < FEWEST_STEPS:
        yield from too_few(context, "truncation", len(shares))
        return
    share = statistics.fmean(last_third(shares))
    config = context.run_config
    room = f"max_new_tokens = {config.max_new_tokens}" if config else "max_new_tokens"
    late = len(last_third(shares))
    seen = f"{percent(share)} of the completions of the last {late} steps are cut off by {room}"
    if share <= OFTEN_CUT:
        yield ok(seen, truncated_fraction=share)
        return
    nothing = not any(last_third(series(steps, "reward_mean")))
    kind = error if share >= ALL_CUT and nothing else warning
    yield kind(seen, *truncation_cures(context, shares), truncated_fraction=share)


def truncation_cures(context: Context, shares: list[float]) -> list[str]:
    """Cures for truncation: a lower learning rate if completions once ended, else a larger max_new_tokens."""
    ended_once = statistics.fmean(first_third(shares)[:1]) <= OFTEN_CUT
    blamed = blamed_rate(context)
    if ended_once and blamed:
        return [blamed, lower_rate(context)]
    room = enough_tokens(context)
    words = "a completion that is cut off gives no answer and gets no reward for it: allow more tokens"
    lines = [f"max_new_tokens = {room}", f"grpo doctor --only end-tokens --model {model_name(context)}"]
    if ended_once:
        words = "they ended by themselves at first, so the updates caused this: lower the learning rate"
        lines = [lower_rate(context), *lines[:1]]
    return [words, *lines]


def enough_tokens(context: Context) -> int:
    """A max_new_tokens to try: 2 × the current one, 1.5 × the longest that ended, or 2 × evaluation's mean.

    The largest of these, at most 8 × the current one, rounded up to a multiple of 32; at least
    GUIDE_NEW_TOKENS.
    """
    config = context.run_config
    now = config.max_new_tokens if config else 64
    ended = [
        number(c, "tokens") or 0.0 for c in context.completions if c.get("stop_reason") in ("eos", "stop")
    ]
    evaluated = [
        number(line, "eval_length_mean") or 0.0
        for line in context.evaluations
        if (number(line, "eval_truncated_fraction") or 0.0) < OFTEN_CUT
    ]
    needed = max([2.0 * now, *(1.5 * length for length in ended), *(2 * length for length in evaluated)])
    return max(GUIDE_NEW_TOKENS, 32 * -(-int(min(needed, 8.0 * now)) // 32))


def repetition(context: Context) -> Iterator[Finding]:
    """Completions do not repeat themselves."""
    shares, source = repeated_shares(context)
    if not shares:
        if logged_steps(context) or "repetition" in context.asked:
            yield skipped("neither the log nor completions.jsonl shows repetition")
        return
    late = last_third(shares)
    share = statistics.fmean(late)
    seen = (
        f"{percent(share)} of the 4-grams of {source} repeat earlier ones (at the start {percent(shares[0])})"
    )
    if share <= LOOPS or solved(context):
        yield ok(seen, repetition=share)
        return
    config = context.run_config
    warm = 0.8 if config is None or config.temperature < 0.8 else 1.0
    words = blamed_rate(context) or (
        "the completions repeat themselves: raise the temperature, lower the learning rate, and keep the "
        "policy near its reference. "
        "`repetition_penalty` is refused in training: the loss would not see it"
    )
    lines = [lower_rate(context), "kl_coeff = 0.04"]
    if config is None or config.temperature < warm:
        lines.insert(0, f"temperature = {warm}")
    yield warning(seen, words, *lines, repetition=share)


def repeated_shares(context: Context) -> tuple[list[float], str]:
    """Shares of repeated 4-grams and their source: tokens of steps, or words of logged completions."""
    from grpo_cli.engine.metrics import repetition as share_repeated

    logged = series(logged_steps(context), "repetition")
    if logged:
        return logged, f"the tokens of the last {len(last_third(logged))} steps"
    written = [line["completion"] for line in context.completions if isinstance(line.get("completion"), str)]
    shares = [share_repeated(text.split()) for text in written]
    return shares, f"the words of the last {len(last_third(shares))} logged completions"
