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

from grpo_cli.engine.prefix import keep, read_prompts
from grpo_cli.engine.sampling import Sampling, draw
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


def generate(
    policy: Policy,
    prompts: list[list[int]],
    num_generations: int,
    sampling: Sampling,
    on_progress: Progress = no_progress,
    prefix: str = "",
) -> list[list[Rollout]]:
    """Sample `num_generations` completions of each prompt: P lists of G rollouts, in order.

    Draws from MLX's global random state. `prefix` is the text the prompts end with that counts as
    the completion's beginning. Raises ModelError for an empty prompt, or for a model whose cache
    cannot hold a batch.
    """
    if not all(prompts):
        raise ModelError("A prompt of 0 tokens cannot be completed", "give every example a text")
    total = len(prompts) * num_generations
    chunk = max(1, PREFILL_TOKENS // len(prompts))
    cache = read_prompts(policy.model, prompts, chunk)
    keep(cache, [index // num_generations for index in range(total)])
    rows = [Row(index) for index in range(total)]
    tokens = mx.array([prompts[index // num_generations][-1] for index in range(total)])  # (B,)
    decode(policy, cache, rows, tokens, sampling, on_progress)
    rollouts = [finish(row, policy.tokenizer, prefix) for row in rows]
    return [rollouts[start : start + num_generations] for start in range(0, total, num_generations)]


def decode(
    policy: Policy,
    cache: list[Any],
    rows: list[Row],
    tokens: mx.array,
    sampling: Sampling,
    on_progress: Progress,
) -> None:
    """Sample all rows to their ends, one token of each at a time."""
    eos_ids, total, sampled = policy.tokenizer.eos_ids, len(rows), 0
    active = rows  # one per row of the cache; finished ones are carried until enough have finished
    while active:
        logits = policy.model(tokens[:, None], cache=cache)[:, -1]  # (B, V)
        drawn = draw(logits, sampling)
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
        on_progress(total - len(alive), total, sampled)
        # Leaving the batch copies the cache of the others, so it waits until an eighth can leave.
        if len(alive) <= len(active) * 7 // 8:
            active = [active[place] for place in alive]
            if active:
                keep(cache, alive)
                tokens = tokens[mx.array(alive)]


def broken_policy(row: Row) -> TrainingError:
    """The error for a policy whose logits are no numbers any more."""
    return TrainingError(
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
