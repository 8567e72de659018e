"""Packing of a step's completions into microbatches under a budget of tokens, padding included.

Rows of equal length need no padding. A prompt of 20 tokens has 15 completions of 32 tokens and one of 256;
the budget is 8192:

    all at once          19 + 16 · 256      = 4115 tokens
    sorted and cut       19 + 15 · 32, and
                         19 +  1 · 256      =  774 tokens

A group is cut if it does not fit, or if the cut saves more tokens than a second pass over its prompt and one
more microbatch cost. Parts of similar lengths, also of different groups, are then joined up to the budget.
Token weights are computed over the whole step, so packing changes no gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

PRICE = 8  # one more microbatch must save 1/8 of the budget


class Packable(Protocol):
    """A completion to compute."""

    @property
    def prompt_ids(self) -> list[int]: ...

    @property
    def length(self) -> int: ...  # tokens of the completion


R = TypeVar("R", bound=Packable)


@dataclass(frozen=True)
class Budget:
    """Maximum tokens of one forward and backward; a single completion may exceed it."""

    tokens: int
    share_prefix: bool = True  # each prompt is computed once for all of its rows

    @property
    def price(self) -> int:
        """Tokens that one more microbatch has to save."""
        return self.tokens // PRICE

    def cost(self, rows: Sequence[Packable]) -> int:
        """Tokens of one microbatch with these rows, padding included."""
        prompts = {tuple(row.prompt_ids) for row in rows}
        return self.padded(len(prompts), max(map(len, prompts)), len(rows), max(row.length for row in rows))

    def padded(self, prompts: int, longest: int, rows: int, width: int) -> int:
        """Tokens of a microbatch by its sizes. A prompt's last token is the completions' first input."""
        return (prompts if self.share_prefix else rows) * (longest - 1) + rows * width


def pack(groups: Sequence[Sequence[R]], budget: Budget) -> list[list[R]]:
    """The microbatches of a step, those of short rows first; each row is in exactly one."""
    parts = [part for group in groups if group for part in cut(group, budget)]
    parts.sort(key=lambda part: part[-1].length)
    joined: list[list[R]] = []
    for part in parts:
        both = [*joined[-1], *part] if joined else []
        apart = budget.cost(joined[-1]) + budget.cost(part) + budget.price if joined else 0
        if both and budget.cost(both) <= min(budget.tokens, apart):
            joined[-1] = both
        else:
            joined.append(part)
    return joined


def cut(group: Sequence[R], budget: Budget) -> list[list[R]]:
    """Sort one prompt's rows by length and cut them into parts with the least Σ (tokens + price).

    Dynamic programming over the ends of parts: least[e] = min over s of (least[s] + cost of rows s to e).
    """
    rows = sorted(group, key=lambda row: row.length)
    prompt = len(rows[0].prompt_ids)
    least, starts = [0], [0]
    for end in range(1, len(rows) + 1):
        width = rows[end - 1].length
        costs = [(budget.padded(1, prompt, end - start, width), start) for start in range(end)]
        allowed = [(cost, start) for cost, start in costs if cost <= budget.tokens or start == end - 1]
        total, best = min((least[start] + cost + budget.price, start) for cost, start in allowed)
        least.append(total)
        starts.append(best)
    parts, end = [], len(rows)
    while end:
        parts.append(rows[starts[end] : end])
        end = starts[end]
    return parts[::-1]
