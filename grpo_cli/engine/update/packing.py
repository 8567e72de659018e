"""Which completions of a step are computed at once, under a budget of tokens, padding included.

Rows of one length pad nothing. For a group of a prompt of 20 tokens, completions of 32 tokens 15 times and of
256 once, and a budget of 8192:

    all at once          19 + 16 · 256      = 4115 tokens
    sorted and cut       19 + 15 · 32, and
                         19 +  1 · 256      =  774 tokens

A group is cut where it does not fit, and where that saves more than reading its prompt again and one more
microbatch are worth. Parts of alike lengths, of whatever groups, are then joined up to the budget.
Weights are those of the whole step, so no cut changes a gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

PRICE = 8  # a further microbatch is worth it where it saves this part (1/8) of the budget


class Row(Protocol):
    """A completion that is to be computed."""

    @property
    def prompt_ids(self) -> list[int]: ...

    @property
    def length(self) -> int: ...  # tokens of the completion


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Budget:
    """The most tokens of one forward and backward; a single completion may exceed it."""

    tokens: int
    share_prefix: bool = True  # whether each prompt is read once for its rows

    @property
    def price(self) -> int:
        """Tokens that a further microbatch has to save."""
        return self.tokens // PRICE

    def cost(self, rows: Sequence[Row]) -> int:
        """Tokens that some rows take when they are computed at once, padding included."""
        prompts = {tuple(row.prompt_ids) for row in rows}
        return self.padded(len(prompts), max(map(len, prompts)), len(rows), max(row.length for row in rows))

    def padded(self, prompts: int, longest: int, rows: int, width: int) -> int:
        """The same from numbers. A prompt's last token is the first input of its completions."""
        return (prompts if self.share_prefix else rows) * (longest - 1) + rows * width


def pack(groups: Sequence[Sequence[R]], budget: Budget) -> list[list[R]]:
    """The microbatches of a step, narrow ones first; every row of every group is in one of them."""
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
    """One prompt's rows by length, cut where that is cheapest: Σ (tokens + price) is least.

    By dynamic programming over the ends of parts: least[e] = min over s of least[s] + that of rows s to e.
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
