"""Sample G completions of each of P prompts, with one prefill per prompt.

    rollouts = generate(policy, prompts, num_generations=8, sampling=sampling)   # P lists of G

The token ids and logprobs returned are those that the loss trains on, including the end token. Batching is
in continuous_batch.py and does not change the result.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from grpo_cli.distributed.world import World
from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.rollout.completion_text import CompletionText
from grpo_cli.engine.rollout.continuous_batch import Decoding
from grpo_cli.engine.rollout.rows import CompletionRow, RowRandom
from grpo_cli.engine.rollout.sampling import KeyChain, Sampling
from grpo_cli.environments.session import Session
from grpo_cli.errors import ModelError
from grpo_cli.models.load import Policy, check_prompts
from grpo_cli.types import Message, Rollout, StopReason

Progress = Callable[[int, int, int], None]  # (finished, total, tokens sampled)
OnGroup = Callable[[int, list[Rollout]], None]  # (index of the prompt, its finished completions)
Sessions = Callable[[int, int], Session | None]  # (index of the prompt, of the row) → its environment


def no_progress(finished: int, total: int, tokens: int) -> None:
    """No-op progress callback."""


def no_one(place: int, rollouts: list[Rollout]) -> None:
    """No-op callback of finished groups."""


def no_session(place: int, row: int) -> None:
    """No environment."""


def generate(
    policy: Policy,
    prompts: list[list[int]],
    num_generations: int,
    sampling: Sampling,
    on_progress: Progress = no_progress,
    prefix: str = "",
    limit: RowLimit | None = None,
    on_group: OnGroup = no_one,
    own: Sequence[int] | None = None,
    random: KeyChain | None = None,
    sessions: Sessions = no_session,
) -> list[list[Rollout]]:
    """Sample `num_generations` completions of each prompt: P lists of G rollouts, in order.

    `prefix`: end of the prompts' text that counts as the completion's beginning. `limit`: if memory cannot
    hold all rows, fewer are sampled at once, and `limit` remembers how many fit. `on_group`: called with each
    group as soon as its last completion has ended, while others are still sampled. `own`: indices of the
    prompts that this rank samples; only their groups are returned, and they do not depend on the others.
    `random`: source of random numbers; None = MLX's global state. `sessions`: makes the environment of a
    completion, given the indices of its prompt and of its row, prompt · G + completion. Raises ModelError for
    an empty prompt, or for a model whose cache cannot hold a batch; TrainingError for logits that are NaN, or
    for a failure of the device that fewer rows do not answer (recovery.py).
    """
    if not all(prompts):
        raise ModelError(
            "A prompt of 0 tokens cannot be completed", "give every example some text", trouble="dataset"
        )
    check_prompts(policy, prompts)
    limit = limit or RowLimit()
    own = range(len(prompts)) if own is None else own
    groups = [
        [
            CompletionRow(index=place * num_generations + turn, prompt=prompts[place])
            for turn in range(num_generations)
        ]
        for place in own
    ]
    rows = [row for group in groups for row in group]
    done: dict[int, list[Rollout]] = {}
    text = CompletionText(policy.tokenizer, prefix)
    dice = RowRandom(len(prompts) * num_generations, sampling, random)
    has_turns = False

    def report() -> None:
        for place, group in enumerate(groups):
            if place not in done and all(row.is_done for row in group):
                done[place] = [finish(row, text, has_turns) for row in group]
                on_group(own[place], done[place])
        ended = sum(row.is_done for row in rows)
        on_progress(ended, len(rows), sum(row.sampled for row in rows))

    while unfinished := [row for row in rows if not row.is_done]:
        for row in unfinished:  # an attempt that ran out of memory may have started them
            row.begin(sessions(row.index // num_generations, row.index))
        has_turns = has_turns or any(row.session and row.session.answers_turns for row in unfinished)
        capacity = min(limit.rows or len(unfinished), len(unfinished))
        sample(
            Decoding(policy, sampling, dice, unfinished, capacity, report, text, limit.prefill_tokens), limit
        )
    return [done[place] for place in range(len(groups))]


def of_all_ranks(sampled: list[list[Rollout]], world: World) -> list[list[Rollout]]:
    """Gather the groups of all ranks, in order."""
    if world.size == 1:
        return sampled
    parts = world.gather([[asdict(rollout) for rollout in group] for group in sampled])
    return [[Rollout.read(saved) for saved in group] for part in parts for group in part]


def sample(decoding: Decoding, limit: RowLimit) -> None:
    """Sample the rows until they end, or until the device fails. Some rows may have ended by then."""
    started = time.perf_counter()
    try:
        decoding.run()
    except (RuntimeError, MemoryError) as error:
        limit.answer(error, decoding.capacity, time.perf_counter() - started)
    else:
        limit.succeeded()


def messages_of(row: CompletionRow, text: CompletionText) -> list[Message]:
    """The turns of a completion and their answers; empty if it has one turn."""
    if row.session is None or row.session.turns == 1:
        return []
    last = row.turn(text.tokenizer.decode, text.tokenizer.eos_ids)
    return [*row.session.messages, {"role": "assistant", "content": last.text}]


def finish(row: CompletionRow, text: CompletionText, has_turns: bool = False) -> Rollout:
    """The rollout of an ended row, with its text. `has_turns`: rows have left the batch and come back."""
    assert row.stop_reason is not None
    body = row.token_ids[:-1] if row.stop_reason is StopReason.EOS else row.token_ids
    markers = row.session.environment.marker_ids if row.session else frozenset()
    own = [token for token, is_own in zip(body, row.loss_mask, strict=False) if is_own]
    return Rollout(
        token_ids=row.token_ids,
        logprobs=row.logprobs,
        entropies=row.entropies,
        loss_mask=row.loss_mask,
        stop_reason=row.stop_reason,
        text=text.of(body, markers),
        own_text=text.of(own, markers) if len(own) < len(body) else "",
        messages=messages_of(row, text),
        use=row.session.use() if row.session else None,
        logprobs_depend_on_time=has_turns,
        log_kept=row.log_kept,
    )
