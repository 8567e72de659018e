"""How token losses are averaged: the weight of every token of a completion in the step's loss.

    completions of 3 and 2 tokens in one forward, at most 4 tokens long:
    by_sequence([[3, 2]], 4) == [1/6, 1/4]      by_token([[3, 2]], 4) == [1/5, 1/5]
    by_budget([[3, 2]], 4) == [1/8, 1/8]

Each function gets the lengths of all completions of a step in order, a list for each forward as configured
(batch_size prompts), and gives one weight a completion. The weights are fixed before the step is cut into
microbatches, so the sum over microbatches is the loss of the whole step whatever their size.

A completion that does not count (`mask_truncated_completions`) has length 0: it weighs 0, and the others
weigh as if it had never been sampled. TRL divides by the number of all sequences there (`grpo`, `dr_grpo`).
"""

from collections.abc import Callable

TokenWeights = Callable[[list[list[int]], int], list[float]]


def by_sequence(forwards: list[list[int]], max_new_tokens: int) -> list[float]:
    """Mean over sequences of the token mean (GRPO, arXiv:2402.03300, eq. 3)."""
    del max_new_tokens
    lengths = flat(forwards)
    counting = sum(length > 0 for length in lengths)
    return [1.0 / (counting * length) if length else 0.0 for length in lengths]


def by_token(forwards: list[list[int]], max_new_tokens: int) -> list[float]:
    """Sum over all completion tokens of the step, divided by their number (DAPO, arXiv:2503.14476, eq. 8)."""
    del max_new_tokens
    lengths = flat(forwards)
    tokens = sum(lengths)
    return [1.0 / tokens if length else 0.0 for length in lengths]


def by_budget(forwards: list[list[int]], max_new_tokens: int) -> list[float]:
    """Sum divided by B · max_new_tokens: no bias by length (Dr. GRPO, arXiv:2503.20783, section 3.2)."""
    lengths = flat(forwards)
    counting = sum(length > 0 for length in lengths)
    return [1.0 / (counting * max_new_tokens) if length else 0.0 for length in lengths]


def by_forward(forwards: list[list[int]], max_new_tokens: int) -> list[float]:
    """Mean over the tokens of one forward, then over the step's forwards (TRL's `bnpo`).

    Forwards of which no token counts are left out of the second mean.
    """
    del max_new_tokens
    counting = sum(any(lengths) for lengths in forwards)
    return [1.0 / (counting * sum(lengths)) if length else 0.0 for lengths in forwards for length in lengths]


def flat(forwards: list[list[int]]) -> list[int]:
    """The lengths of all completions in order."""
    return [length for lengths in forwards for length in lengths]
