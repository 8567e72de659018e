"""Find an answer in a completion, read it as a number, compare it with the right one.

    extract_answer("<reasoning>9 · 2</reasoning><answer>$18.00</answer>")  →  "$18.00"
    answers_match("$18.00", "18")                                         →  True

Completions are written by a policy that is paid for every hole it finds, so everything here is
exact (Decimal, never float) and takes time linear in the text, whatever the text is.
"""

import re
from collections import deque
from decimal import Decimal

# A longer number is no answer to anything, and comparing as text still works for it.
MAX_NUMBER_LENGTH = 400

CURRENCY = "$€£¥"
MINUS = "-\N{MINUS SIGN}"
CLOSING = (")", "]", "}")

# 18 · 1,000 · 18.5 · .5 · 2e3. Commas only where thousands have them: "1,2" is two numbers.
# The exponent has at most three digits, so that 1e999999999 costs nothing.
NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?"
NUMBER_IN_TEXT = re.compile(NUMBER, re.ASCII)
WHOLE_TEXT = re.compile(
    rf"(?P<sign>[{MINUS}+])?[ ]?[{CURRENCY}]?[ ]?(?P<inner_sign>[{MINUS}+])?"
    rf"(?P<number>{NUMBER})[ ]?[{CURRENCY}%]?\.?",
    re.ASCII,
)


def extract_answer(text: str) -> str | None:
    """What stands in the last closed `<answer>…</answer>`, stripped; None where there is none.

    Without its closing tag there is no answer: a completion that was cut off inside `<answer>12`
    may have been about to say 128. (MLX-GRPO pays for it, and for a text without any tag.)
    """
    start = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if start < 0:
        return None
    start += len("<answer>")
    return text[start : text.find("</answer>", start)].strip()


def parse_number(text: str) -> Decimal | None:
    """The whole text as an exact number, or None: `1,000` `$18` `18.0` `18.` `-3` `−3` `-$5` `50%`.

    Signs of currency and per cent are dropped (50% is 50, as GSM8K's answers have it).
    """
    text = text.strip()
    match = WHOLE_TEXT.fullmatch(text) if len(text) <= MAX_NUMBER_LENGTH else None
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    number = Decimal(match["number"].replace(",", ""))
    negative = (match["sign"] or match["inner_sign"] or "+") in MINUS
    return number.copy_negate() if negative else number


def answers_match(got: str | None, gold: str) -> bool:
    """Whether the answer is right: equal as numbers where both are, else equal as stripped texts."""
    if got is None:
        return False
    got_number, gold_number = parse_number(got), parse_number(gold)
    if got_number is not None and gold_number is not None:
        return got_number == gold_number
    return got.strip() == gold.strip()


def last_number(text: str) -> Decimal | None:
    """The last number in a text: 2 in `5 - 3 = 2.`, 3 in `10-3`, -3 in `x = -3`."""
    last = deque(NUMBER_IN_TEXT.finditer(text), maxlen=1)
    if not last:
        return None
    number = parse_number(last[0].group())
    before = text[max(0, last[0].start() - 32) : last[0].start()]
    return number.copy_negate() if number and ends_with_sign(before) else number


def ends_with_sign(before: str) -> bool:
    """Whether the text before a number ends with its minus sign, and not with a dash or a subtraction.

    Subtractions and dashes: `10-3`, `10 -3`, `(a)-3`, `x-3`, `- 3`. Signs: `is -3`, `=-3`, `(-3`, `-$3`.
    """
    before = before.rstrip(CURRENCY)
    if not before.endswith(tuple(MINUS)):
        return False
    left = before[:-1]
    nearest = left.rstrip(" \t")
    return not (left[-1:].isalnum() or nearest[-1:].isdigit() or nearest.endswith(CLOSING))
