"""Averaging of token losses: the weight of each token in the step's loss, Σ weight · token loss.

    completions of 3 and 2 tokens in one forward, max_new_tokens 4:
    by_sequence([[3, 2]], 4) == [1/6, 1/4]      by_token([[3, 2]], 4) == [1/5, 1/5]
    by_budget([[3, 2]], 4) == [1/8, 1/8]

Each function takes the lengths of all completions of a step, one list per configured forward of batch_size
prompts, and returns one weight per completion: that of each of its tokens. The weights are computed before
the step is split into microbatches, so the microbatches' losses add up to the loss of the step, whatever
their size.

Completions excluded by `mask_truncated_completions` have length 0 and weight 0. The others are weighted as if
those had never been sampled; in the advantages those still count as members of their group. (TRL still
divides by the number of all sequences, in `grpo` and `dr_grpo`.)
"""

from collections.abc import Callable

TokenWeights = Callable[[list[list[int]], int], list[float]]


def by_sequence(forwards: list[list[int]], max_new_tokens: int) -> list[float]:
    """Mean over a sequence's tokens, then over sequences (GRPO, arXiv:2402.03300, eq. 3)."""
    del max_new_tokens
    lengths = flat(forwards)
    counting = sum(length > 0 for length in lengths)
    return [1.0 / (counting * length) if length else 0.0 for length in lengths]


def by_sequence_sum(forwards: list[list[int]], max_new_tokens: int) -> list[float]:
    """Sum over a sequence's tokens, then the mean over sequences (LUSPO, arXiv:2602.05261)."""
    del max_new_tokens
    lengths = flat(forwards)
    counting = sum(length > 0 for length in lengths)
    return [1.0 / counting if length else 0.0 for length in lengths]


def by_token(forwards: list[list[int]], max_new_tokens: int) -> list[float]:
    """Mean over all completion tokens of the step (DAPO, arXiv:2503.14476, eq. 8)."""
    del max_new_tokens
    lengths = flat(forwards)
    tokens = sum(lengths)
    return [1.0 / tokens if length else 0.0 for length in lengths]


def by_budget(forwards: list[list[int]], max_new_tokens: int) -> list[float]:
    """Sum over tokens, divided by B · max_new_tokens (Dr. GRPO, arXiv:2503.20783, section 3.2).

    The divisor does not depend on a completion's length, so the loss has no bias towards long ones.
    """
    lengths = flat(forwards)
    counting = sum(length > 0 for length in lengths)
    return [1.0 / (counting * max_new_tokens) if length else 0.0 for length in lengths]


def by_forward(forwards: list[list[int]], max_new_tokens: int) -> list[float]:
    """Mean over the tokens of one forward, then over the step's forwards (TRL's `bnpo`).

    The second mean leaves out forwards without counted tokens.
    """
    del max_new_tokens
    counting = sum(any(lengths) for lengths in forwards)
    return [1.0 / (counting * sum(lengths)) if length else 0.0 for lengths in forwards for length in lengths]


def flat(forwards: list[list[int]]) -> list[int]:
    """The lengths of all completions in order."""
    return [length for lengths in forwards for length in lengths]


AVERAGES: dict[str, TokenWeights] = {
    average.__name__: average for average in (by_sequence, by_sequence_sum, by_forward, by_token, by_budget)
}
