"""Completions cut at their tokens, with the probability of each, packed into two short texts for the page.

    pieces_of("ab c", ["a", "b", " c"])     # ["a", "b", " c"]
    packed_tokens(line, "")                 # ("11c", "0a5"): lengths and logprobs by ALPHABET

The text of a token alone is not always its part of the completion: some tokenizers drop a leading space, and
a character may take several tokens. So each token is looked for after the one before it.
"""

from typing import Any

from grpo_cli.foreign_text import visible
from grpo_cli.report.rollouts import is_numbers

# Characters that JSON and HTML need no escape for; a character stands for its place.
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%()*+,-./:;=?@[]^_`{|}~"
TENTHS = 10  # steps of a logprob per nat
NOT_SAMPLED = len(ALPHABET) - 1  # in the place of a logprob: the prompt or an environment wrote the token
LONGEST = len(ALPHABET) - 1  # characters of a piece; a longer one is several
GAP = 8  # characters that may lie between two tokens
BROKEN = "�"  # in the text of a token that holds a part of a character


def packed_tokens(line: dict[str, Any], prefix: str, longest: int) -> tuple[str, str] | None:
    """Lengths and logprobs of the tokens of a rollout; None if there are none that fit its text.

    `prefix`: the beginning of the text that the prompt holds. `longest`: characters of the text shown.
    """
    text: str = line["completion"]
    tokens: list[str] = line.get("tokens_list") or []
    logprobs: list[float] = line.get("logprobs") or []
    mask: list[int] = line.get("loss_mask") or [1] * len(tokens)
    if not (
        tokens and is_numbers(logprobs) and is_numbers(mask) and len(tokens) == len(logprobs) == len(mask)
    ):
        return None
    start = len(prefix) if text.startswith(prefix) else 0
    pieces = pieces_of(text, tokens, start)
    if pieces is None:
        return None
    levels = [level_of(logprob) if own else NOT_SAMPLED for logprob, own in zip(logprobs, mask, strict=True)]
    return packed([(text[:start], NOT_SAMPLED), *zip(pieces, levels, strict=True)], longest)


def pieces_of(text: str, tokens: list[str], start: int = 0) -> list[str] | None:
    """The part of `text` from `start` that each token wrote; empty for control tokens. None: they differ."""
    ends: list[int] = []
    at, is_open = start, False  # is_open: the last token holds a part of a character, whose end is not known
    for token in tokens:
        is_part = not isinstance(token, str) or BROKEN in token
        found = -1 if is_part or not token else text.find(token, at, at + len(token) + GAP)
        if found >= 0:
            if is_open and found > at:
                ends[-1] = found
            at = found + len(token)
        is_open = is_part or (is_open and found < 0)
        ends.append(at)
    if len(text) - at > GAP and not is_open:
        return None
    if ends:
        ends[-1] = len(text)
    return [text[low:high] for low, high in zip([start, *ends], ends, strict=False)]


def level_of(logprob: float) -> int:
    """A logprob in TENTHS of a nat, as a place of ALPHABET."""
    return min(max(0, round(-TENTHS * logprob)), NOT_SAMPLED - 1) if logprob == logprob else NOT_SAMPLED - 1


def packed(pieces: list[tuple[str, int]], longest: int) -> tuple[str, str]:
    """The lengths of pieces as they are shown, within the first `longest` characters, and their levels."""
    lengths, levels, left = [], [], longest
    for piece, level in pieces:
        size = len(visible(piece[:left]))
        left -= len(piece[:left])
        while size > 0:
            lengths.append(ALPHABET[min(size, LONGEST)])
            levels.append(ALPHABET[level])
            size -= LONGEST
    return "".join(lengths), "".join(levels)
