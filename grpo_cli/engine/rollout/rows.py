"""A completion while it is sampled, its random numbers, and a token that the device still computes."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from grpo_cli.engine.rollout.sampling import KeyChain, SampledTokens, Sampling, uniforms
from grpo_cli.environments.protocol import Turn
from grpo_cli.environments.session import Session
from grpo_cli.types import StopReason


@dataclass(kw_only=True)
class CompletionRow:
    """A completion while it is sampled."""

    index: int  # its index in the result
    prompt: list[int]
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)  # 0: an environment wrote the token
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    log_kept: list[float] = field(default_factory=list)  # empty without top_k, top_p and min_p
    stop_reason: StopReason | None = None
    sampled: int = 0  # tokens that the model wrote
    begun: int = 0  # the same, including one that the device still computes
    session: Session | None = None  # its environment
    forced: deque[int] = field(default_factory=deque)  # ids that take the place of the next sampled ones
    is_outside: bool = False  # its turn has ended, and its environment has not answered yet
    turn_start: int = 0  # index of the turn's first token
    cached: int = 0  # tokens of prompt and completion that its cache holds

    def begin(self, session: Session | None = None) -> None:
        """Reset the row to its prompt."""
        self.token_ids, self.loss_mask, self.logprobs, self.entropies, self.log_kept = [], [], [], [], []
        self.stop_reason, self.sampled, self.begun = None, 0, 0
        self.session, self.forced = session, deque()
        self.is_outside, self.turn_start, self.cached = False, 0, len(self.prompt) - 1

    @property
    def is_active(self) -> bool:
        """True if the row needs further tokens from the model now."""
        return self.stop_reason is None and not self.is_outside

    @property
    def is_done(self) -> bool:
        """True if the completion is complete."""
        return self.stop_reason is not None and not self.is_outside

    @property
    def context(self) -> list[int]:
        """Prompt and completion so far."""
        return self.prompt + self.token_ids

    def add(self, token: int, logprob: float, entropy: float, log_kept: float | None) -> None:
        """Append a token that the model wrote."""
        self.token_ids.append(token)
        self.loss_mask.append(1)
        self.sampled += 1
        self.logprobs.append(logprob)
        self.entropies.append(entropy)
        if log_kept is not None:
            self.log_kept.append(log_kept)

    def add_forced(self, ids: list[int], cuts_tail: bool) -> None:
        """Append tokens that an environment wrote. They have no logprob: the policy did not choose them."""
        self.token_ids += ids
        self.loss_mask += [0] * len(ids)
        zeros = [0.0] * len(ids)
        self.logprobs += zeros
        self.entropies += zeros
        self.log_kept += zeros if cuts_tail else []

    def turn(self, spell: Any, eos_ids: frozenset[int]) -> Turn:
        """The turn that has just ended. `spell`: the tokenizer's, ids to text."""
        ids = self.token_ids[self.turn_start :]
        body = ids[:-1] if ids and ids[-1] in eos_ids else ids
        number = self.session.turns - 1 if self.session else 0
        return Turn(number=number, token_ids=ids, text=spell(body))


class RowRandom:
    """The random numbers of one `generate` call, by token and row, independent of how rows are batched.

    A completion is therefore the same (except for rounding in the logits) alone, in a batch, and whenever it
    enters the batch. Tokens that an environment writes use none. Greedy sampling draws none. `random`: their
    source; None = MLX's global state.
    """

    def __init__(self, rows: int, sampling: Sampling, random: KeyChain | None = None) -> None:
        self.numbers: mx.array | None = None  # (max_new_tokens, rows, 2)
        if sampling.temperature > 0:
            key = random.next() if random else None  # one key per call
            seed = mx.random.randint(0, (1 << 31) - 1, (2,), key=key).astype(mx.uint32)
            keys = mx.random.split(seed, sampling.max_new_tokens)
            self.numbers = mx.vmap(lambda key: uniforms(rows, key))(keys)
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
    """One token per row, which the device may still be computing."""

    rows: list[CompletionRow]
    drawn: SampledTokens
    forced: dict[int, int] = field(default_factory=dict)  # place in `rows` → the token instead of the drawn

    @property
    def is_wanted(self) -> bool:
        """True if any of the rows needs its token."""
        return any(row.is_active for row in self.rows)

    def columns(self) -> list[list[Any]]:
        """Tokens, logprobs, entropies and log kept masses (None without top_k, top_p and min_p), as lists."""
        drawn = self.drawn
        arrays = [drawn.tokens, drawn.logprobs, drawn.entropies]
        values: list[Any] = [array.tolist() for array in arrays]
        kept: Any = [None] * len(self.rows) if drawn.log_kept is None else drawn.log_kept.tolist()
        return [*values, kept]


ENDED = CompletionRow(index=0, prompt=[], stop_reason=StopReason.EOS)  # in the place of a row that has left
