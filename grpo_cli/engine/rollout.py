"""Sample completions in one batch with a shared prompt prefill.

    rollouts = generate(policy, prompts, num_generations=8, sampling=sampling)   # P lists of G

Every prompt is read once into the KV cache, whose rows are then repeated for its G completions. All
rows decode together; finished ones leave the batch. The ids and logprobs that come out are the ones
the loss trains on, the end token included.

Departs from `mlx_lm.batch_generate`, which drops the end token and its logprob.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from grpo_cli.engine.allocation import RowLimit, in_parts
from grpo_cli.engine.prefix import keep, read_prompts
from grpo_cli.engine.sampling import Sampling, draw, uniforms
from grpo_cli.errors import ModelError, TrainingError
from grpo_cli.models.load import Policy
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import Rollout, StopReason

Progress = Callable[[int, int, int], None]  # (finished, total, tokens sampled)

PREFILL_TOKENS = 2048  # prompt tokens read in one forward: bounds memory, not results
STOP_TAIL = 16  # tokens of text looked at for a stop string, beyond its own length in characters


def no_progress(finished: int, total: int, tokens: int) -> None:
    """For those who do not watch."""


@dataclass
class Row:
    """A completion that is being sampled."""

    index: int  # its place in the result
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    stop_reason: StopReason | None = None

    def begin(self) -> None:
        """Forget what was sampled."""
        self.token_ids, self.logprobs, self.entropies, self.stop_reason = [], [], [], None


@dataclass
class RowBatch:
    """Completions that are sampled together."""

    rows: list[Row]
    prompts: list[list[int]]  # one for each row

    def halves(self) -> "tuple[RowBatch, RowBatch] | None":
        """The first and the second half of the rows; None for a single one."""
        middle = len(self.rows) // 2
        if not middle:
            return None
        return (
            RowBatch(self.rows[:middle], self.prompts[:middle]),
            RowBatch(self.rows[middle:], self.prompts[middle:]),
        )


class Dice:
    """The random numbers of one call, by token and row: they do not depend on what is computed at once.

    With them a completion comes out the same (but for rounding in the logits) alone, in a batch, and
    after memory ran out and the batch was halved. Greedy sampling needs none and takes none.
    """

    def __init__(self, rows: int, sampling: Sampling) -> None:
        self.rows = rows
        self.keys: mx.array | None = None
        if sampling.temperature > 0:
            # The one draw from MLX's global random state.
            seed = mx.random.randint(0, (1 << 31) - 1, (2,)).astype(mx.uint32)
            self.keys = mx.random.split(seed, sampling.max_new_tokens)

    def throw(self, token: int, rows: list[Row]) -> mx.array | None:
        """The numbers (B, 2) of some rows for their token number `token`."""
        if self.keys is None:
            return None
        return uniforms(self.rows, self.keys[token])[mx.array([row.index for row in rows])]


def generate(
    policy: Policy,
    prompts: list[list[int]],
    num_generations: int,
    sampling: Sampling,
    on_progress: Progress = no_progress,
    prefix: str = "",
    limit: RowLimit | None = None,
) -> list[list[Rollout]]:
    """Sample `num_generations` completions of each prompt: P lists of G rollouts, in order.

    Draws from MLX's global random state. `prefix` is the text the prompts end with that counts as
    the completion's beginning. Rows that memory cannot hold together are sampled in halves, as often as
    needed, and `limit` remembers it. Raises ModelError for an empty prompt, or for a model whose cache
    cannot hold a batch; TrainingError for logits that are no numbers.
    """
    if not all(prompts):
        raise ModelError(
            "A prompt of 0 tokens cannot be completed", "give every example a text", trouble="dataset"
        )
    limit = limit or RowLimit()
    repeated = [prompt for prompt in prompts for _ in range(num_generations)]
    rows = [Row(index) for index in range(len(repeated))]
    dice, tally = Dice(len(rows), sampling), Tally(len(rows), on_progress)
    size = limit.rows or len(rows)
    for start in range(0, len(rows), size):
        batch = RowBatch(rows[start : start + size], repeated[start : start + size])
        for _ in in_parts(
            batch, lambda part: sample(policy, part, sampling, dice, tally), RowBatch.halves, limit.lower
        ):
            tally.keep()
    rollouts = [finish(row, policy.tokenizer, prefix) for row in rows]
    return [rollouts[start : start + num_generations] for start in range(0, len(rows), num_generations)]


@dataclass
class Tally:
    """How many rows have ended and how many tokens were sampled, of all batches together."""

    total: int
    report: Progress
    ended: int = 0  # by batches that are done
    tokens: int = 0
    latest: tuple[int, int] = (0, 0)  # of the batch that is being sampled

    def show(self, ended: int, tokens: int) -> None:
        """Report where the batch stands."""
        self.latest = (ended, tokens)
        self.report(self.ended + ended, self.total, self.tokens + tokens)

    def keep(self) -> None:
        """The batch is done."""
        self.ended, self.tokens = self.ended + self.latest[0], self.tokens + self.latest[1]


def sample(policy: Policy, batch: RowBatch, sampling: Sampling, dice: Dice, tally: Tally) -> None:
    """Read the prompts, each once, and sample the rows to their ends."""
    for row in batch.rows:  # a try that ran out of memory may have begun them
        row.begin()
    distinct = [prompt for index, prompt in enumerate(batch.prompts) if prompt not in batch.prompts[:index]]
    chunk = max(1, PREFILL_TOKENS // len(distinct))
    cache = read_prompts(policy.model, distinct, chunk)
    keep(cache, [distinct.index(prompt) for prompt in batch.prompts])
    tokens = mx.array([prompt[-1] for prompt in batch.prompts])  # (B,)
    decode(policy, cache, batch.rows, tokens, sampling, dice, tally)


def decode(
    policy: Policy,
    cache: list[Any],
    rows: list[Row],
    tokens: mx.array,
    sampling: Sampling,
    dice: Dice,
    tally: Tally,
) -> None:
    """Sample all rows to their ends, one token of each at a time."""
    eos_ids, total, sampled, length = policy.tokenizer.eos_ids, len(rows), 0, 0
    active = rows  # one per row of the cache; finished ones are carried until enough have finished
    while active:
        logits = policy.model(tokens[:, None], cache=cache)[:, -1]  # (B, V)
        drawn = draw(logits, sampling, dice.throw(length, active))
        length += 1
        tokens = drawn.tokens
        mx.eval(tokens, drawn.logprobs, drawn.entropies)
        columns: list[Any] = [values.tolist() for values in (tokens, drawn.logprobs, drawn.entropies)]
        for row, token, logprob, entropy in zip(active, *columns, strict=True):
            if not math.isfinite(logprob):
                raise broken_policy(row)
            if row.stop_reason is None:
                row.token_ids.append(token)
                row.logprobs.append(logprob)
                row.entropies.append(entropy)
                row.stop_reason = stop_reason(row.token_ids, eos_ids, sampling, policy.tokenizer)
                sampled += 1
        alive = [place for place, row in enumerate(active) if row.stop_reason is None]
        tally.show(total - len(alive), sampled)
        # Leaving the batch copies the cache of the others, so it waits until an eighth can leave.
        if len(alive) <= len(active) * 7 // 8:
            active = [active[place] for place in alive]
            if active:
                keep(cache, alive)
                tokens = tokens[mx.array(alive)]


class BrokenPolicy(TrainingError):
    """The policy's logits are no numbers any more."""

    trouble = "nan-gradient"


def broken_policy(row: Row) -> BrokenPolicy:
    """The error for a row whose logits are no numbers."""
    return BrokenPolicy(
        f"The policy's logits are NaN or infinite after {len(row.token_ids)} tokens of a completion",
        "its weights are damaged: take an earlier checkpoint, and lower `learning_rate`",
    )


def stop_reason(
    token_ids: list[int], eos_ids: frozenset[int], sampling: Sampling, tokenizer: Tokenizer
) -> StopReason | None:
    """Why a completion ends with its newest token, or None if it goes on."""
    if token_ids[-1] in eos_ids:
        return StopReason.EOS
    if sampling.stop:
        # Stop strings are matched on text: the tokens that spell one depend on what stands around it.
        tail = STOP_TAIL + max(len(text) for text in sampling.stop)
        text = tokenizer.decode(token_ids[-tail:])
        if any(stop in text for stop in sampling.stop):
            return StopReason.STOP
    return StopReason.LENGTH if len(token_ids) >= sampling.max_new_tokens else None


def finish(row: Row, tokenizer: Tokenizer, prefix: str) -> Rollout:
    """The finished completion with its text."""
    assert row.stop_reason is not None
    body = row.token_ids[:-1] if row.stop_reason is StopReason.EOS else row.token_ids
    return Rollout(
        row.token_ids, row.logprobs, row.entropies, row.stop_reason, prefix + tokenizer.decode(body)
    )
