r"""Find the final answer of a completion and compare it with the right one.

    is_right("<reasoning>9 · 2</reasoning><answer>$18.00</answer>", "18")  →  True
    is_right(r"So it costs \boxed{18} dollars.", "18")                     →  True
    is_right("The answer is (B) Paris.", "B")                              →  True

One reader for all: it searches the last closed `<answer>…</answer>`, or the whole text if there is
none. The last `\boxed{…}` in it is the answer; else the sentence after the last `answer is`, `Answer:` or
`####`; else the end of the text. The right answer decides what is read there: a number (numbers.py), a letter
of multiple choice, yes or no, or a text. A completion that offers several answers has none.

The policy is rewarded for every loophole it finds, so everything here is exact (never
float) and takes time linear in the length of the text.
"""

import re
from collections import deque
from collections.abc import Iterator
from typing import TypeVar

from grpo_cli.rewards.numbers import MOST_READ, has_digits, plain, read_last, read_whole

Read = TypeVar("Read")

SENTENCE = 400  # maximum length of a stated answer's sentence, in characters
BOXES = ("\\boxed", "\\fbox")
CUE = re.compile(
    r"\b(?:answer|(?:correct|right|best) (?:option|choice))[*_ ]{0,4}"
    r"(?:(?:is|was|would be|will be)\b[*_ ]{0,4}:?|[:=])|####",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"\n|[.!?][*_\"')\]]*(?:\s|$)")
AROUND = " \t\r\n.,;:!?*_\"'`“”‘’()[]{}$"  # punctuation around a text that is not part of it
JOINT = r"(?:[,;/|&]|\b(?:or|and|nor|not)\b|n't\b)"  # before the next alternative, or before a negation
ENDS_IN_JOINT = re.compile(rf"{JOINT}[^\w]*$", re.IGNORECASE)

LETTER = re.compile(r"\W*([A-Z])\W*")
LONE_LETTER = re.compile(r"\W*(?:(?:option|choice|letter|answer)\W+)?([A-Za-z])\W*", re.IGNORECASE)
LEADING_LETTER = re.compile(
    r"\W*(?:(?:option|choice|letter)\W+)?\b([A-Z])"
    r"(?:[.):]|[ ,]+(?:because|since|as|for|which)\b|[ ]?[-–—][ ])"
)
TRAILING_LETTER = re.compile(r"(?:(?:\b[Oo]ption|\b[Cc]hoice|\b[Ll]etter)[ ]+\(?([A-Z])|\(([A-Z])\))\W*$")
NEXT_LETTER = re.compile(rf"\W*?{JOINT}\W*(?:option )?[A-Z]\b")
EARLIER_LETTER = re.compile(rf"\b[A-Z]\W*{JOINT}\W*(?:option )?$")

VERDICTS = {"yes": True, "true": True, "no": False, "false": False}
WORDS = r"(yes|no|true|false)"
LEADING_WORD = re.compile(rf"\W*\b{WORDS}\b(?=\s*$|\s*[^\w\s/|&]|\s+(?:because|since|as)\b)", re.IGNORECASE)
TRAILING_WORD = re.compile(rf"\b{WORDS}\b\W*$", re.IGNORECASE)
NEXT_WORD = re.compile(rf"\W*(?:(?:or|and)\b)?\W*\b{WORDS}\b", re.IGNORECASE)
EARLIER_WORD = re.compile(rf"\b{WORDS}\W*(?:\b(?:or|and)\b)?\W*$", re.IGNORECASE)


def extract_answer(text: str) -> str | None:
    """The content of the last closed `<answer>…</answer>`, stripped, or None.

    Without its closing tag there is no answer: a completion truncated inside `<answer>12` may have been about
    to say 128. (MLX-GRPO accepts it, and a text without any tag.)
    """
    start = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if start < 0:
        return None
    start += len("<answer>")
    return text[start : text.find("</answer>", start)].strip()


def is_right(completion: str, gold: str) -> bool:
    """True if a completion's final answer, tagged or not, is the right one."""
    tagged = extract_answer(completion)
    return answers_match(completion if tagged is None else tagged, gold)


def answers_match(got: str | None, gold: str) -> bool:
    """True if the answer in a text is the right one."""
    if got is None:
        return False
    if got.strip() == gold.strip() or bare(got) == bare(gold) != "":
        return True
    if number := read_whole(gold):
        found = next((read_last(part) for part in stated(got) if has_digits(part)), None)
        return found is not None and found.equals(number)
    if letter := LETTER.fullmatch(plain(gold)):
        return first(read_letter(part) for part in stated(got)) == letter[1]
    if (word := bare(gold).lower()) in VERDICTS:
        return first(read_verdict(part) for part in stated(got)) is VERDICTS[word]
    return any(says(part, gold) for part in stated(got))


def stated(text: str) -> list[str]:
    """The parts of a text that may contain its answer, most likely first; empty if a box is not closed."""
    start = max(text.rfind(box) for box in BOXES)
    if start >= 0:
        return [inside] if (inside := in_braces(text[start : start + MOST_READ])) is not None else []
    end = text[-MOST_READ:].strip()
    last = deque(CUE.finditer(text), maxlen=1)
    if not last:
        return [end]
    sentence = text[last[0].end() :][:SENTENCE].strip()
    stop = SENTENCE_END.search(sentence)
    return [sentence[: stop.start()] if stop else sentence, end]


def in_braces(text: str) -> str | None:
    """The text between the first `{` and its `}`; None if it is not closed."""
    start, depth = text.find("{"), 0
    for place in range(max(start, 0), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 1 : place] if start >= 0 else None
    return None


def first(read: Iterator[Read | None]) -> Read | None:
    """The first result that is not None."""
    return next((found for found in read if found is not None), None)


def read_letter(text: str) -> str | None:
    """The letter that a text chooses: `B`, `(B)`, `B. Paris`, `option B`; None for `A or B`."""
    *_, line = plain(text).strip().splitlines() or [""]
    is_one_line = "\n" not in text.strip()
    match = (
        LONE_LETTER.fullmatch(line[:SENTENCE])
        or (is_one_line and LEADING_LETTER.match(line))
        or TRAILING_LETTER.search(line[-SENTENCE:])
    )
    if not match:
        return None
    whole = match.string
    chosen = match.lastindex or 1
    if NEXT_LETTER.match(whole[match.end(chosen) :]) or EARLIER_LETTER.search(whole[: match.start(chosen)]):
        return None
    return match[chosen].upper()


def read_verdict(text: str) -> bool | None:
    """True for yes, False for no: the word that starts or ends the last line, or the text."""
    lines = plain(text).strip().splitlines() or [""]
    match = (
        LEADING_WORD.match(lines[-1])
        or TRAILING_WORD.search(lines[-1][-SENTENCE:])
        or LEADING_WORD.match(lines[0])
    )
    if not match:
        return None
    whole = match.string
    if NEXT_WORD.match(whole[match.end(1) :]) or EARLIER_WORD.search(whole[: match.start(1)]):
        return None
    return VERDICTS[match[1].lower()]


def says(text: str, gold: str) -> bool:
    """True if a text is the right answer, or its last line ends with it: `The capital of France is Paris.`"""
    wanted = bare(gold)
    lines = text.strip().splitlines()
    if not wanted or not lines:
        return False
    if wanted in (bare(text), line := bare(lines[-1])):
        return True
    before = line.removesuffix(wanted)
    return before != line and not before[-1:].isalnum() and not ENDS_IN_JOINT.search(before[-SENTENCE:])


def bare(text: str) -> str:
    """A text normalized for comparison: no Markdown, LaTeX, outer punctuation or insignificant spaces."""
    words = " ".join(plain(text[-MOST_READ:]).split()).strip(AROUND)
    return re.sub(r"(?<=[^\w ]) | (?=[^\w ])", "", words)
