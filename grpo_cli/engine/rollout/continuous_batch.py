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
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from grpo_cli.engine.rollout.completion_text import CompletionText
from grpo_cli.engine.rollout.prompt_cache import join, keep, read_prompts, select
from grpo_cli.engine.rollout.sampling import KeyChain, SampledTokens, Sampling, draw, uniforms
from grpo_cli.engine.rollout.shared_prompt import GroupCache, quick_decoding, reads_in_groups
from grpo_cli.errors import TrainingError
from grpo_cli.models.load import Policy
from grpo_cli.types import StopReason
from grpo_cli.words import plural

PREFILL_TOKENS = 2048  # prompt tokens per forward: bounds memory and changes no result


class BrokenPolicy(TrainingError):
    """The policy's logits are NaN or infinite."""

    trouble = "nan-gradient"


@dataclass(kw_only=True)
class CompletionRow:
    """A completion while it is sampled."""

    index: int  # its index in the result
    prompt: list[int]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    log_kept: list[float] = field(default_factory=list)  # empty without top_k, top_p and min_p
    stop_reason: StopReason | None = None
    begun: int = 0  # tokens sampled, including one that the device still computes

    def begin(self) -> None:
        """Reset the row to its prompt."""
        self.token_ids, self.logprobs, self.entropies, self.log_kept = [], [], [], []
        self.stop_reason, self.begun = None, 0


class RowRandom:
    """The random numbers of one `generate` call, by token and row, independent of how rows are batched.

    A completion is therefore the same (except for rounding in the logits) alone, in a batch, and whenever it
    enters the batch. Greedy sampling draws none. `random`: their source; None = MLX's global state.
    """

    def __init__(self, rows: int, sampling: Sampling, random: KeyChain | None = None) -> None:
        self.numbers: mx.array | None = None  # (max_new_tokens, rows, 2)
        if sampling.temperature > 0:
            key = random.next() if random else None  # one key per call
            seed = mx.random.randint(0, (1 << 31) - 1, (2,), key=key).astype(mx.uint32)
            keys = mx.random.split(seed, sampling.max_new_tokens)
            self.numbers = mx.stack([uniforms(rows, key) for key in keys])
            mx.eval(self.numbers)

    def draw(self, rows: list[CompletionRow]) -> mx.array | None:
        """Random numbers (B, 2) for the next token of these rows; arbitrary for rows that have ended."""
        if self.numbers is None:
            return None
        last = len(self.numbers) - 1
        tokens = mx.array([min(row.begun, last) for row in rows])
        return self.numbers[tokens, mx.array([row.index for row in rows])]


@dataclass(frozen=True)
class Pending:
    """One sampled token per row, which the device may still be computing."""

    rows: list[CompletionRow]
    drawn: SampledTokens

    @property
    def is_wanted(self) -> bool:
        """True if any of the rows has not ended."""
        return any(row.stop_reason is None for row in self.rows)

    def columns(self) -> list[list[Any]]:
        """Tokens, logprobs, entropies and log kept masses (None without top_k, top_p and min_p), as lists."""
        drawn = self.drawn
        arrays = [drawn.tokens, drawn.logprobs, drawn.entropies]
        values: list[Any] = [array.tolist() for array in arrays]
        kept: Any = [None] * len(self.rows) if drawn.log_kept is None else drawn.log_kept.tolist()
        return [*values, kept]


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
    ) -> None:
        self.policy, self.sampling, self.dice = policy, sampling, dice
        self.capacity, self.on_token, self.text = capacity, on_token, text
        self.together = policy.plan.sampled
        self.in_groups = self.together == "mixed" and reads_in_groups(policy.model)
        self.waiting = deque(rows)
        self.active: list[CompletionRow] = []  # one per row of the cache, including ended rows
        self.cache: list[Any] | None = None
        self.tokens = mx.array([], dtype=mx.int32)  # (B,) the newest token of each active row
        self.held: tuple[list[int], list[Any]] | None = None  # a prompt and its cache, for waiting rows

    def run(self) -> None:
        """Sample all rows until they end. Raises BrokenPolicy for logits that are NaN."""
        with quick_decoding():
            self.sample()

    def sample(self) -> None:
        """The decoding loop: one token per active row and iteration."""
        self.admit()
        ahead = self.launch()
        while ahead is not None:
            now, ahead = ahead, self.launch()
            self.read(now)
            self.on_token()
            self.evict_and_admit()
            if ahead is None or not ahead.is_wanted:
                ahead = self.launch()

    def launch(self) -> Pending | None:
        """Start computing the next token of every active row; None if no row needs one."""
        most = self.sampling.max_new_tokens
        if not any(row.stop_reason is None and row.begun < most for row in self.active):
            return None
        logits = self.policy.model(self.tokens[:, None], cache=self.cache)[:, -1]  # (B, V)
        drawn = draw(logits, self.sampling, self.dice.draw(self.active))
        mx.async_eval(drawn.tokens, drawn.logprobs, drawn.entropies)
        for row in self.active:
            row.begun += 1
        self.tokens = drawn.tokens
        return Pending(list(self.active), drawn)

    def read(self, pending: Pending) -> None:
        """Wait for one token per row and append it to the rows that have not ended."""
        for row, token, logprob, entropy, log_kept in zip(pending.rows, *pending.columns(), strict=True):
            if row.stop_reason is not None:
                continue
            if not math.isfinite(logprob):
                raise broken_policy(row)
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.entropies.append(entropy)
            if log_kept is not None:
                row.log_kept.append(log_kept)
            row.stop_reason = stop_reason(row.token_ids, self.sampling, self.text)

    def evict_and_admit(self) -> None:
        """Remove ended rows and add waiting ones.

        Both copy the cache of the other rows, so nothing is done until an eighth of the rows has ended.
        """
        alive = [place for place, row in enumerate(self.active) if row.stop_reason is None]
        if len(alive) > len(self.active) * 7 // 8:
            return
        if alive and self.cache is not None:
            keep(self.cache, alive)
            self.tokens = self.tokens[mx.array(alive)]
        else:
            self.cache = None
        self.active = [self.active[place] for place in alive]
        self.admit()

    def admit(self) -> None:
        """Fill free places of the batch with waiting rows."""
        entering = self.entering(self.capacity - len(self.active))
        if not entering:
            return
        cache = self.cache_for(entering)
        last = mx.array([row.prompt[-1] for row in entering], dtype=mx.int32)
        if self.cache is None:
            self.cache, self.tokens = cache, last
        else:
            join(self.cache, cache)
            self.tokens = mx.concatenate([self.tokens, last])
        self.active = [*self.active, *entering]

    def entering(self, free: int) -> list[CompletionRow]:
        """Take the next rows off the queue: only rows that the model computes correctly in one batch."""
        if self.together != "mixed" and self.active:
            return []
        length = len(self.waiting[0].prompt) if self.waiting else 0
        fitting = [row for row in self.waiting if self.together == "mixed" or len(row.prompt) == length]
        chosen = fitting[: min(free, 1) if self.together == "single" else free]
        places = {row.index for row in chosen}
        self.waiting = deque(row for row in self.waiting if row.index not in places)
        return chosen

    def cache_for(self, rows: list[CompletionRow]) -> list[Any]:
        """A cache with each row's prompt. The last prompt's cache is held if waiting rows share it."""
        prompts = list({tuple(row.prompt): row.prompt for row in rows}.values())
        alone = self.together == "mixed" or len(prompts) == 1  # other prompts cannot join the held cache
        cache = self.held[1] if self.held and self.held[0] == prompts[0] and alone else None
        unread = prompts[1:] if cache else prompts
        if unread:
            chunk = max(1, PREFILL_TOKENS // len(unread))
            read = read_prompts(self.policy.model, unread, chunk, padded=self.together == "mixed")
            if cache:
                join(cache, read)
            cache = cache or read
        assert cache is not None
        more = bool(self.waiting) and self.waiting[0].prompt == prompts[-1]
        self.held = (prompts[-1], select(cache, [len(prompts) - 1])) if more else None
        groups = [prompts.index(row.prompt) for row in rows]
        if self.in_groups:
            return [GroupCache(layer, groups) for layer in cache]
        keep(cache, groups)
        return cache


def broken_policy(row: CompletionRow) -> BrokenPolicy:
    """The error for a row whose logits are NaN or infinite."""
    return BrokenPolicy(
        f"The policy's logits are NaN or infinite after {plural(len(row.token_ids), 'token')} of a "
        "completion",
        "its weights are damaged: use an earlier checkpoint, and lower `learning_rate`",
    )


def stop_reason(token_ids: list[int], sampling: Sampling, text: CompletionText) -> StopReason | None:
    """The reason if a completion ends with its newest token, else None."""
    if token_ids[-1] in text.tokenizer.eos_ids:
        return StopReason.EOS
    if sampling.stop and text.ends_with_one_of(sampling.stop, token_ids):
        return StopReason.STOP
    return StopReason.LENGTH if len(token_ids) >= sampling.max_new_tokens else None
