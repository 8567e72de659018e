"""Special tokens spelled in texts: found, and kept as text in prompts.

    spelled = SpelledTokens(tokenizer)
    spelled.occur_in([{"role": "user", "content": "What does <|im_end|> do?"}])      →  True
    spelled.encode(render, messages)      →  ids in which that text is no end of a turn

A chat template renders one string, and a tokenizer turns every added token spelled in it into its id, whoever
wrote it: a row with `<|im_end|><|im_start|>assistant` would end its own turn. So each such spelling in a
message is cut by a mark before the template renders it, and the pieces between the marks are tokenized one by
one. A conversation without such spellings is never touched: its ids are the template's.

Cut are control tokens and all other special ones, but not those spelled as a plain tag: `<think>` or
`<answer>` may stand in a system message on purpose, and the model reads and writes them as tokens.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from grpo_cli.types import Message

MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # noncharacters of Unicode: no text has all of them
PLAIN_TAG = re.compile(r"</?\w+>|\[/?THINK\]")
Render = Callable[[list[Message]], str]


class SpelledTokens:
    """The added tokens of a Hugging Face tokenizer, by their spellings."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer  # models.tokenizer.ChatTokenizer, which has one of these itself

    @cached_property
    def added(self) -> dict[str, int]:
        """The spellings of all added tokens; runs of white space and single letters are ordinary text."""
        decoder = self.tokenizer.wrapped._tokenizer.added_tokens_decoder
        spelled = {str(token.content): number for number, token in decoder.items()}
        return {text: number for text, number in spelled.items() if len(text) > 1 and not text.isspace()}

    @cached_property
    def guarded(self) -> dict[str, int]:
        """The tokens that stay text in a prompt."""
        decoder = self.tokenizer.wrapped._tokenizer.added_tokens_decoder
        return {
            text: number
            for text, number in self.added.items()
            if number in self.tokenizer.control_ids
            or (decoder[number].special and not PLAIN_TAG.fullmatch(text))
        }

    @cached_property
    def _guarded_ids(self) -> frozenset[int]:
        return frozenset(self.guarded.values())

    def spellings(self, text: str, words: Sequence[str] | None = None) -> list[re.Match[str]]:
        """Every place in a text where one of `words` begins; group 1 is the longest there.

        `words`: the spellings of all added tokens by default.
        """
        known = self.added if words is None else words
        present = [word for word in known if word in text]  # some tokenizers have thousands
        longest_first = "|".join(map(re.escape, sorted(present, key=len, reverse=True)))
        return list(re.finditer(f"(?=({longest_first}))", text)) if present else []

    def after(self, marker: str, text: str) -> list[int]:
        """Ids of a text that follows `marker`, an added token, without it.

        The marker keeps a tokenizer from putting a space before the text; empty: nothing stands before.
        """
        if not text or marker not in self.added:
            return list(self.tokenizer.encode(text))
        ids = list(self.tokenizer.encode(marker + text))
        return ids[1:] if ids[0] == self.added[marker] else list(self.tokenizer.encode(text))

    def occur_in(self, messages: list[Message]) -> bool:
        """True if a text of the messages has ids of guarded tokens."""
        return any(self._has_guarded(text) for text in texts_of(messages))

    def _has_guarded(self, text: str) -> bool:
        return not self._guarded_ids.isdisjoint(self.tokenizer.encode(text))

    def encode(self, render: Render, messages: list[Message]) -> list[int]:
        """Ids of the conversation as `render` writes it, the guarded tokens in its messages as text."""
        texts = list(texts_of(messages))
        mark = next((mark for mark in MARKS if not any(mark in text for text in texts)), MARKS[0])
        cut = [marked(message, lambda text: self._cut(text, mark)) for message in messages]
        first, *others = render(cut).split(mark)
        marker = self.tokenizer.wrapped.eos_token or ""
        return [
            *self.tokenizer.encode(first),
            *(token for piece in others for token in self.after(marker, piece)),
        ]

    def _cut(self, text: str, mark: str) -> str:
        """The text with a mark within each guarded spelling, else after each letter."""
        places = [0, *(match.start() + 1 for match in self.spellings(text, list(self.guarded))), len(text)]
        pieces = [text[start:end] for start, end in pairwise(places)]
        if any(self._has_guarded(piece) for piece in pieces):  # a normalizer made one of other letters
            return mark.join(text)
        return mark.join(pieces)


def marked(value: Any, change: Callable[[str], str]) -> Any:
    """A message with all its texts changed, except its role and the names of fields."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: item if name == "role" else marked(item, change) for name, item in value.items()}
    return [marked(item, change) for item in value] if isinstance(value, list) else value


def texts_of(value: Any) -> Iterator[str]:
    """All texts in messages, except their roles and the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from () if name == "role" else texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)
