"""Continuous batching: finished completions leave the batch, and waiting ones take their places.

    Decoding(policy, sampling, dice, rows, 8, report, text).run()      # 8 rows at a time; fills `rows` in

A prompt is computed once; its row of the KV cache is repeated for all of its completions, also for those that
enter later. While the host reads one token of each row, the device already computes the next, so the device
waits for the host only when rows leave or enter.

Departs from `mlx_lm.BatchGenerator`, which computes a prompt for each of its completions, uses random numbers
that depend on the batch, and drops the end token with its logprob.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from grpo_cli.cpu.attention import blockwise_attention
from grpo_cli.engine.recovery import PREFILL_TOKENS
from grpo_cli.engine.rollout.completion_text import CompletionText
from grpo_cli.engine.rollout.prompt_cache import join, keep, read_prompts, select
from grpo_cli.engine.rollout.rows import ENDED, CompletionRow, Pending, RowRandom
from grpo_cli.engine.rollout.sampling import Sampling, draw
from grpo_cli.engine.rollout.shared_prompt import GroupCache, one_row, quick_decoding, reads_in_groups
from grpo_cli.engine.rollout.turns import Outside
from grpo_cli.environments.session import Session
from grpo_cli.errors import TrainingError
from grpo_cli.models.caches import arrays_of
from grpo_cli.models.evaluating import evaluating
from grpo_cli.models.gated_delta import chunked_gated_delta
from grpo_cli.models.load import Policy
from grpo_cli.types import StopReason
from grpo_cli.words import plural


class BrokenPolicy(TrainingError):
    """The policy's logits are NaN or infinite."""

    trouble = "nan-gradient"


class Decoding:
    """A batch of at most `capacity` active rows, and the queue of waiting rows."""

    def __init__(
        self,
        policy: Policy,
        sampling: Sampling,
        dice: RowRandom,
        rows: list[CompletionRow],
        capacity: int,
        on_token: Callable[[], None],
        text: CompletionText,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        self.prefill_tokens = prefill_tokens
        self.policy, self.sampling, self.dice = policy, sampling, dice
        self.capacity, self.on_token, self.text = capacity, on_token, text
        self.together = policy.plan.sampled
        if self.together == "equal" and any(row.session and row.session.answers_turns for row in rows):
            self.together = "single"  # rows that come back have other lengths
        self.is_open = self.together in ("mixed", "joined")  # rows of any length may join
        self.in_groups = self.together == "mixed" and reads_in_groups(policy.model)
        self.waiting = deque(rows)
        self.active: list[CompletionRow] = []  # one per row of the cache, including ended rows
        self.cache: list[Any] | None = None
        self.tokens = mx.array([], dtype=mx.int32)  # (B,) the newest token of each active row
        self.held: tuple[list[int], list[Any]] | None = None  # a prompt and its cache, for waiting rows
        self.outside = Outside()

    def run(self) -> None:
        """Sample all rows until they end. Raises BrokenPolicy for logits that are NaN."""
        with evaluating(self.policy.model), blockwise_attention(), quick_decoding(), chunked_gated_delta():
            self.sample()

    def sample(self) -> None:
        """The decoding loop: one token per active row and iteration."""
        self.admit()
        ahead = self.launch()
        while ahead is not None or self.outside:
            if ahead is None:
                self.outside.wait(self.on_token)  # every row waits for its environment
            else:
                now, ahead = ahead, self.launch()
                self.read(now, ahead)
                self.on_token()
            self.evict_and_admit()
            if ahead is None or not ahead.is_wanted:
                ahead = self.launch()
        self.on_token()  # rows may have ended outside of the batch

    def launch(self) -> Pending | None:
        """Start computing the next token of every active row; None if no row needs one."""
        most = self.sampling.max_new_tokens
        if not any(row.is_active and (row.forced or row.begun < most) for row in self.active):
            return None
        logits = self.policy.model(self.tokens[:, None], cache=self.cache)[:, -1]  # (B, V)
        drawn = draw(logits, self.sampling, self.dice.draw(self.active))
        drawn.submit()
        for row in self.active:
            row.begun += 1
            row.cached += 1
        self.tokens = drawn.tokens
        pending = Pending(list(self.active), drawn)
        self.force(pending)
        return pending

    def force(self, newest: Pending) -> None:
        """Put forced ids in the place of the newest tokens, which the device drew before they were known."""
        for place, row in enumerate(newest.rows):
            if row.forced and place not in newest.forced:
                newest.forced[place] = row.forced.popleft()
                row.begun -= 1
        if newest.forced:
            is_forced = mx.array([place in newest.forced for place in range(len(newest.rows))])
            ids = mx.array([newest.forced.get(place, 0) for place in range(len(newest.rows))])
            self.tokens = mx.where(is_forced, ids, self.tokens)

    def read(self, pending: Pending, newest: Pending | None) -> None:
        """Wait for one token per row and append it to the active rows. `newest`: launched after `pending`."""
        for place, (row, *drawn) in enumerate(zip(pending.rows, *pending.columns(), strict=True)):
            if not row.is_active:
                continue
            if place in pending.forced:
                row.add_forced([pending.forced[place]], self.sampling.cuts_tail)
            elif not math.isfinite(drawn[1]):
                raise broken_policy(row)
            else:
                row.add(*drawn)
                row.stop_reason = stop_reason(row, self.sampling, self.text)
            if row.session is not None:
                self.consult(row, row.session, newest)
        if newest is not None:
            self.force(newest)

    def consult(self, row: CompletionRow, session: Session, newest: Pending | None) -> None:
        """Let a row's environment read its newest token, or answer the turn that ended with it."""
        forced = session.read(row.token_ids[-1])
        if row.stop_reason is None:
            row.forced.extend(forced)
            row.stop_reason = StopReason.LENGTH if session.is_full else None
        elif row.stop_reason is not StopReason.LENGTH and session.answers_turns:
            place = next(place for place, other in enumerate(self.active) if other is row)
            cache = [one_row(layer, place) for layer in self.cache or []]
            self.active[place] = ENDED
            if newest is not None:  # its token was drawn after the end of the turn
                newest.rows[place] = ENDED
                row.begun -= 1
            self.outside.leave(row, cache, self.text.tokenizer)

    def evict_and_admit(self) -> None:
        """Remove rows that have ended or left, and add returning and waiting ones.

        All of it copies the cache of the other rows, so nothing is done until an eighth of the rows has ended
        or has an answer.
        """
        alive = [place for place, row in enumerate(self.active) if row.is_active]
        returns = len(alive) < self.capacity and self.outside.answers() > len(alive) // 8
        if len(alive) > len(self.active) * 7 // 8 and not returns:
            return
        if not alive:
            self.cache = None
        elif self.cache is not None and len(alive) < len(self.active):
            keep(self.cache, alive)
            self.tokens = self.tokens[mx.array(alive)]
        self.active = [self.active[place] for place in alive]
        self.readmit()
        self.admit()

    def readmit(self) -> None:
        """Bring back rows whose environment has answered, into free places."""
        rows: list[CompletionRow] = []
        cache: list[Any] = []
        free = self.capacity - len(self.active)
        if not self.is_open:
            free = 0 if self.active else min(free, 1)  # rows of other lengths cannot join
        while len(rows) < free:
            returned = self.outside.next_answered(self.sampling)
            if returned is None:
                break
            row, own = returned
            own = self.read_answer(row, own)
            if cache:
                join(cache, own)
            cache = cache or own
            rows.append(row)
        if rows:
            self.enter(rows, cache)

    def read_answer(self, row: CompletionRow, cache: list[Any]) -> list[Any]:
        """The cache of a returning row, all of its tokens but the last read, in the batch's form."""
        suffix = mx.array([row.context[row.cached : -1]])  # (1, S), the tokens that were not read yet
        for start in range(0, suffix.shape[1], self.prefill_tokens):
            self.policy.model(suffix[:, start : start + self.prefill_tokens], cache=cache)
            mx.eval(arrays_of(cache))
        row.cached = len(row.context) - 1
        if not self.in_groups:
            return cache
        return [GroupCache.of_row(layer, len(row.prompt) - 1, tuple(row.prompt)) for layer in cache]

    def admit(self) -> None:
        """Fill free places of the batch with waiting rows."""
        entering = self.entering(self.capacity - len(self.active))
        if entering:
            self.enter(entering, self.cache_for(entering))

    def enter(self, rows: list[CompletionRow], cache: list[Any]) -> None:
        """Add rows, whose cache holds all of their tokens but the last."""
        last = mx.array([row.context[-1] for row in rows], dtype=mx.int32)
        if self.cache is None:
            self.cache, self.tokens = cache, last
        else:
            join(self.cache, cache)
            self.tokens = mx.concatenate([self.tokens, last])
        self.active = [*self.active, *rows]

    def entering(self, free: int) -> list[CompletionRow]:
        """Take the next rows off the queue: only rows that the model computes correctly in one batch."""
        if not self.is_open and self.active:
            return []
        length = len(self.waiting[0].prompt) if self.waiting else 0
        fitting = [row for row in self.waiting if self.is_open or len(row.prompt) == length]
        chosen = fitting[: min(free, 1) if self.together == "single" else free]
        places = {row.index for row in chosen}
        self.waiting = deque(row for row in self.waiting if row.index not in places)
        return chosen

    def cache_for(self, rows: list[CompletionRow]) -> list[Any]:
        """A cache with each row's prompt. The last prompt's cache is held if waiting rows share it."""
        prompts = list({tuple(row.prompt): row.prompt for row in rows}.values())
        alone = self.is_open or len(prompts) == 1  # other prompts cannot join the held cache
        cache = self.held[1] if self.held and self.held[0] == prompts[0] and alone else None
        unread = prompts[1:] if cache else prompts
        if unread:
            chunk = max(1, self.prefill_tokens // len(unread))
            read = read_prompts(self.policy.model, unread, chunk, self.together)
            if cache:
                join(cache, read)
            cache = cache or read
        assert cache is not None
        more = bool(self.waiting) and self.waiting[0].prompt == prompts[-1]
        self.held = (prompts[-1], select(cache, [len(prompts) - 1])) if more else None
        groups = [prompts.index(row.prompt) for row in rows]
        if self.in_groups:
            names = [tuple(prompt) for prompt in prompts]
            return [GroupCache(layer, groups, names) for layer in cache]
        keep(cache, groups)
        return cache


def broken_policy(row: CompletionRow) -> BrokenPolicy:
    """The error for a row whose logits are NaN or infinite."""
    return BrokenPolicy(
        f"The policy's logits are NaN or infinite after {plural(len(row.token_ids), 'token')} of a "
        "completion",
        "its weights are damaged: use an earlier checkpoint, and lower `learning_rate`",
    )


def stop_reason(row: CompletionRow, sampling: Sampling, text: CompletionText) -> StopReason | None:
    """The reason if a completion ends with its newest token, else None."""
    if row.token_ids[-1] in text.tokenizer.eos_ids:
        return StopReason.EOS
    if sampling.stop and text.ends_with_one_of(sampling.stop, row.token_ids[row.turn_start :]):
        return StopReason.STOP
    return StopReason.LENGTH if row.sampled >= sampling.max_new_tokens else None
