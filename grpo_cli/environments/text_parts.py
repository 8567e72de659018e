"""Tokenize a template's text around foreign texts, whose spelled-out special tokens stay text.

    parts = Parts.of(rendered, probes, texts)
    encode_parts(tokenizer, parts)       →  ids, joined as the whole text's, but with no control id of a text

A chat template renders one string, and a tokenizer turns every added token spelled in it into its id, whoever
wrote it. So the template is rendered with placeholders, and each text is put in its place as the template
changes texts: as it is, trimmed, or escaped as JSON. Where an added token's spelling in the joined string
reaches into such a text, the string is cut within that spelling, and the pieces are tokenized one by one.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from grpo_cli.errors import ModelError
from grpo_cli.foreign_text import well_formed
from grpo_cli.models.tokenizer import ChatTokenizer

OUTER = "\x0b"  # white space that no template writes: it shows that a text is trimmed
INNER = '"é'  # shows that a text is escaped
ESCAPES: dict[str, Callable[[str], str]] = {
    INNER: lambda text: text,
    json.dumps(INNER, ensure_ascii=False)[1:-1]: lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    json.dumps(INNER)[1:-1]: lambda text: json.dumps(text)[1:-1],
}
SPACE = rf"(?P<{{}}>{OUTER}|\\u000b|)"


@dataclass(frozen=True)
class Part:
    """A piece of a rendered conversation."""

    text: str
    is_foreign: bool  # a message's text, not the template's


def key(number: int) -> str:
    """A word that stands for a message's text; no template contains it."""
    return f"qzx{number}grpoText{number}xzq"


def probe(number: int) -> str:
    """A placeholder for a message's text, made so that the template's changes to it can be seen."""
    return f"{OUTER}{key(number)}{INNER}{key(number)}{OUTER}"


def parts_of(rendered: str, texts: Sequence[str]) -> list[Part]:
    """The rendered conversation with `texts[i]` in the place of `probe(i)`.

    Raises ModelError if a text does not appear, or is changed in a way that is not known here.
    """
    pieces, place, seen = [], 0, set()
    for found in _PROBES.finditer(rendered):
        number = int(found["number"])
        pieces += [Part(rendered[place : found.start()], False), Part(_changed(texts[number], found), True)]
        place = found.end()
        seen.add(number)
    if len(seen) < len(texts):
        raise ModelError(
            "The model's chat template leaves out the text of a message that answers the model",
            "use a model whose template shows messages of tools, or an environment without tools",
            trouble="chat-template",
        )
    return [*pieces, Part(rendered[place:], False)]


_PROBES = re.compile(
    SPACE.format("before")
    + r"qzx(?P<number>\d+)grpoText(?P=number)xzq(?P<inner>.*?)qzx(?P=number)grpoText(?P=number)xzq"
    + SPACE.format("after"),
    re.DOTALL,
)


def _changed(text: str, found: re.Match[str]) -> str:
    """The text as the template writes it."""
    escape = ESCAPES.get(found["inner"])
    if escape is None:
        raise ModelError(
            f"The model's chat template changes a message's text: {INNER!r} becomes {found['inner']!r}",
            "use a model whose template writes texts as they are, or as JSON",
            trouble="chat-template",
        )
    text = well_formed(text)
    text = text if found["before"] else text.lstrip()
    return escape(text if found["after"] else text.rstrip())


class PartsEncoder:
    """Tokenizes parts with a Hugging Face tokenizer."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer

    @property
    def added(self) -> dict[str, int]:
        """The spellings of all added tokens."""
        return self.tokenizer.spelled.added

    def spellings(self, text: str) -> list[re.Match[str]]:
        """Every place in a text where an added token's spelling begins; group 1 is the longest there."""
        return self.tokenizer.spelled.spellings(text)

    def encode(self, parts: Sequence[Part], marker: str) -> list[int]:
        """Ids of the joined parts after `marker`, an added token, whose own id is left out.

        The marker keeps a tokenizer from putting a space before the text; empty: nothing stands before.
        """
        text = "".join(part.text for part in parts)
        cuts = [0, *self.cuts(text, parts), len(text)]
        ids = [number for start, end in pairwise(cuts) for number in self.after(marker, text[start:end])]
        ours = [number for part in parts if not part.is_foreign for number in self.after(marker, part.text)]
        if self.control(ids) == self.control(ours):
            return ids
        return list(self.by_letters(parts, marker))  # a normalizer made a spelling out of another text

    def cuts(self, text: str, parts: Sequence[Part]) -> list[int]:
        """Places within the spellings of added tokens that reach into foreign text."""
        starts, spans, place = [], [], 0
        for part in parts:
            if part.is_foreign and part.text:
                starts.append(place)
                spans.append(place + len(part.text))
            place += len(part.text)
        found = set()
        for match in self.spellings(text):
            start, end = match.span(1)
            before = bisect_right(starts, start) - 1
            if before >= 0 and start < spans[before]:
                found.add(start + 1)
            elif before + 1 < len(starts) and starts[before + 1] < end:
                found.add(starts[before + 1])
        return sorted(found)

    def after(self, marker: str, text: str) -> list[int]:
        """Ids of a text that follows a marker."""
        return self.tokenizer.spelled.after(marker, text)

    def control(self, ids: Sequence[int]) -> list[int]:
        """The ids of added tokens among `ids`."""
        added = set(self.added.values())
        return [number for number in ids if number in added]

    def by_letters(self, parts: Sequence[Part], marker: str) -> Iterator[int]:
        """Ids with foreign text tokenized letter by letter; a letter that is an added token is left out."""
        for part in parts:
            pieces: Any = part.text if part.is_foreign else [part.text]
            for piece in pieces:
                ids = self.after(marker, piece)
                yield from [] if part.is_foreign and self.control(ids) else ids
