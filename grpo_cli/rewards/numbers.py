r"""Read numbers as people and models write them, as exact fractions.

    last_number("so it costs $1,000 in all.")  →  1000
    parse_number(r"\frac{1}{2} cup")           →  1/2

The last number of a text is the one that counts. Spellings with two meanings are decided:

- `1,000` and `1 000` are a thousand, `1.000` is one; `3,5` is three and a half, and so is `3.5`. `1.234,5`,
  `1.234.567`, `1'234` and `1,00,000` have one meaning each.
- `50%` is 50, as in GSM8K's answers. A right answer that is given as `50%` may also be written `0.5`.
- `2 million` is 2000000. Units, currencies and ordinals (`18 km/h`, `18 USD`, `18th`) are dropped.
- An unevaluated operation (`10 - 3`, `x/2`, `√2`, `2^3`, `3:4`) or a choice (`18 or 19`; `1, 2, 3`)
is not a number. `9 + 9 = 18` is 18.
"""

import re
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

# Longer numbers are never answers, and comparison as text still works for them.
MAX_NUMBER_LENGTH = 400
MOST_READ = 4096  # maximum characters read, counted from the end of the text
NEAR = 24  # characters of context on either side of a number

CURRENCY = "$€£¥₹₽₩₺₫₦₱฿"
MINUS = "-\N{MINUS SIGN}\N{EN DASH}"
CLOSING = (")", "]", "}")
BLANK = "[ \u00a0\u2009\u202f]"
OPERATORS = rf"[{MINUS}+*×·÷^/]"

GROUPED_BY_BLANKS = rf"[1-9]\d{{0,2}}(?:{BLANK}\d{{3}})+(?!\d)(?:[.,]\d+)?"
PLAIN = rf"(?:{GROUPED_BY_BLANKS}|\d+(?:[.,'’]\d+)*|(?<![\d.])\.\d+)(?:[eE][-+]?\d{{1,3}}(?!\d))?"
POWER_OF_TEN = rf"{BLANK}?[×x*·]{BLANK}?10{BLANK}?\^{BLANK}?\{{?(?P<power>[-+{MINUS}]?\d{{1,3}})\}}?"
QUANTITY = re.compile(
    rf"(?P<whole>\d{{1,9}}){BLANK}(?P<top>\d{{1,9}})/(?P<bottom>\d{{1,9}})(?![\d/])"
    rf"|(?P<number>{PLAIN})(?:{POWER_OF_TEN}|{BLANK}?/{BLANK}?(?P<divisor>{PLAIN}))?",
    re.ASCII,
)
# Thousands and decimal separators of each notation.
SPELLINGS = [
    (re.compile(pattern, re.ASCII), thousands, decimal)
    for pattern, thousands, decimal in (
        (r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", ",", "."),
        (r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?", ",", "."),
        (r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}", ".", ","),
        (r"[1-9]\d{0,2}(?:['’]\d{3})+(?:\.\d+)?", "'’", "."),
        (rf"[1-9]\d{{0,2}}(?:{BLANK}\d{{3}})+(?:\.\d+)?", " \u00a0\u2009\u202f", "."),
        (rf"[1-9]\d{{0,2}}(?:{BLANK}\d{{3}})+,\d+", " \u00a0\u2009\u202f", ","),
        (r"\d+,\d+", "", ","),
        (r"\d*\.\d+|\d+", "", "."),
    )
]
MAGNITUDES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
MAGNITUDE = re.compile(rf"{BLANK}?(thousand|million|billion|trillion)\b", re.IGNORECASE)
PERCENT = re.compile(rf"{BLANK}?(?:%|per ?cent\b)", re.IGNORECASE)
SIGN_IN_WORDS = re.compile(r"(?:^|[^\w ] ?|[A-Za-z] )(?:minus|negative) $", re.IGNORECASE)

# Before digits that belong to a name or a unit: x2, x_1, m^2.
IN_A_NAME = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]|\w_\{?|[A-Za-z)] ?\^ ?\{?)$")
OPERAND = re.compile(rf"(?:[\d)\]][ \t]*{OPERATORS}[ \t]*[{CURRENCY}]?|\d:|[/^√±{{])[ \t]*$")
OPERATED_ON = re.compile(r" ?[\^π√]|[xyz_](?![A-Za-z])|:\d|[A-Za-z]\d")
# Between two numbers of a list or a choice.
JOINT = re.compile(rf"[ \t]*(?:[,;|&/]?[ \t]*(?:(?:and|or)\b)?)[ \t]*[{CURRENCY}{MINUS}+(]*[ \t]*")
CHOICE = re.compile(
    r"[^\n=]{0,24}\bor\b(?: (?:maybe|perhaps|possibly|even|about))?(?: [A-Za-z] ?=)?"
    rf"[ \t]*[{CURRENCY}{MINUS}+(]*[ \t]*"
)
BEFORE_ALL = re.compile(
    rf"[\s(\[\"'*]*(?:[A-Za-z][ \t]*=[ \t]*)?"
    rf"(?:[{MINUS}+]?[ ]?[A-Z]{{0,3}}[{CURRENCY}]?[ ]?|[{CURRENCY}]?[{MINUS}+])"
)
AFTER_ALL = re.compile(
    rf"(?:st|nd|rd|th)?[ ]?[{CURRENCY}%°]?(?:[ ]?[^\W\d]+(?:[/^][\w²³]+)*){{0,3}}[\s.)\]\"'*{CURRENCY}²³°]*"
)

NAMED_FRACTIONS = str.maketrans({"½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⁄": "/"})
LATEX = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[,;:! ]|\\[()\[\]]|\\(?:left|right|displaystyle)\b|~", " "),
        (r"\{,\}", ","),
        (r"\\([$%&#_])", r"\1"),
        (r"\^ ?\{?\\circ\}?|\\degree", "°"),
        (r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\{([^{}]*)\}", r" \1 "),
        (r"\\(?:times|cdot)(?![A-Za-z])", "×"),
        (r"\\div(?![A-Za-z])", "÷"),
        (r"\\pi(?![A-Za-z])", "π"),
        (r"\\sqrt(?![A-Za-z])", "√"),
        (r"\\pm(?![A-Za-z])", "±"),
        (r"(?<=\d)\*\*(?=\d)", "^"),
        (r"\*\*|__|`", ""),
    )
]
LATEX_FRACTION = re.compile(
    r"(?P<left>\d ?)?\\[dt]?frac(?:\{ ?(-?\d{1,99}) ?\}|(\d))(?:\{ ?(\d{1,99}) ?\}|(\d))"
)


class Number(NamedTuple):
    """A number, and whether `%` follows it."""

    value: Fraction
    is_percent: bool

    def equals(self, gold: "Number") -> bool:
        """True if it equals the right answer: the same value, or 0.5 for a right answer of 50%."""
        as_share = gold.is_percent and not self.is_percent and self.value * 100 == gold.value
        return self.value == gold.value or as_share


def plain(text: str) -> str:
    """A text without LaTeX and Markdown: `$\\frac{1}{2}$` → `$1/2$`, `**18\\,\\text{cm}**` → `18 cm`."""
    for pattern, replacement in LATEX:
        text = pattern.sub(replacement, text)
    return LATEX_FRACTION.sub(fraction_in_plain, text).translate(NAMED_FRACTIONS)


def fraction_in_plain(match: re.Match[str]) -> str:
    """`3\\frac{1}{2}` → `3 1/2`."""
    left, top, short_top, bottom, short_bottom = match.groups("")
    return f"{left.strip()} " * bool(left) + f"{top or short_top}/{bottom or short_bottom}"


def last_number(text: str) -> Fraction | None:
    """The last number in a text: 2 in `5 - 3 = 2.`, 1/2 in `It costs 1/2`, None in `10-3` or `18 or 19`."""
    found = read_last(text)
    return found.value if found else None


def has_digits(text: str) -> bool:
    """True if the text contains anything that looks like a number, parsed or not."""
    return any(digit in text for digit in "0123456789½⅓⅔¼¾")


def read_last(text: str) -> Number | None:
    """The last number of a text; None if that is an operand, one of a choice, or too long."""
    text = plain(text[-MOST_READ:])
    matches = [match for match in QUANTITY.finditer(text) if not is_in_a_name(text, match)]
    if not matches or is_list(text, matches):
        return None
    return read(text, matches[-1])


def parse_number(text: str) -> Fraction | None:
    """The whole text as a number with its unit, or None: `1,000` `$18` `−3` `50%` `1/2` `x = 18 km/h`."""
    found = read_whole(text)
    return found.value if found else None


def read_whole(text: str) -> Number | None:
    """The number in a short text that contains only signs, currency and a unit besides."""
    text = plain(text.strip()) if len(text) <= MAX_NUMBER_LENGTH else ""
    matches = [match for match in QUANTITY.finditer(text) if not is_in_a_name(text, match)]
    if len(matches) != 1:
        return None
    before, after = text[: matches[0].start()], text[matches[0].end() :]
    is_whole = BEFORE_ALL.fullmatch(before) and AFTER_ALL.fullmatch(after)
    return read(text, matches[0]) if is_whole else None


def read(text: str, match: re.Match[str]) -> Number | None:
    """The matched number with its sign and magnitude; None if it is an operand."""
    before, after = text[max(0, match.start() - NEAR) : match.start()], text[match.end() :][:NEAR]
    value = value_of(match)
    if value is None or OPERAND.search(before) or OPERATED_ON.match(after):
        return None
    if magnitude := MAGNITUDE.match(after):
        value *= 10 ** MAGNITUDES[magnitude[1].lower()]
    return Number(-value if ends_with_sign(before) else value, PERCENT.match(after) is not None)


def value_of(match: re.Match[str]) -> Fraction | None:
    """The unsigned value of a quantity; None if it is malformed, infinite or divided by 0."""
    if len(match[0]) > MAX_NUMBER_LENGTH:
        return None
    if match["whole"]:
        whole, top, bottom = (int(match[name]) for name in ("whole", "top", "bottom"))
        return whole + Fraction(top, bottom) if bottom else None
    number, divisor = decimal(match["number"]), decimal(match["divisor"] or "1")
    if number is None or not divisor:
        return None
    power = int(re.sub(rf"[{MINUS}]", "-", match["power"] or "0"))
    return number / divisor * Fraction(10) ** power


def decimal(text: str) -> Fraction | None:
    """Digits with separators and exponent as a number; None if they are not one."""
    digits, _, exponent = text.lower().partition("e")
    for pattern, thousands, point in SPELLINGS:
        if pattern.fullmatch(digits):
            digits = re.sub(f"[{thousands}]", "", digits) if thousands else digits
            return Fraction(digits.replace(point, ".")) * Fraction(10) ** int(exponent or 0)
    return None


def is_in_a_name(text: str, match: re.Match[str]) -> bool:
    """True if the digits belong to a name or a unit: x2, x_1, m^2."""
    return IN_A_NAME.search(text[max(0, match.start() - 4) : match.start()]) is not None


def is_list(text: str, matches: list[re.Match[str]]) -> bool:
    """True if the last number is one of several alternatives.

    That is: after `18 or`, in a row of three, or in a row of two at the beginning of the text.
    """
    gaps = [text[left.end() : right.start()] for left, right in pairwise(matches)]
    if gaps and CHOICE.fullmatch(gaps[-1]):
        return True
    row = 1
    while row <= len(gaps) and len(gaps[-row]) <= NEAR and JOINT.fullmatch(gaps[-row]):
        row += 1
    return row > 2 or (row == 2 and not text[: matches[-2].start()].strip(f" ([{{{CURRENCY}{MINUS}\"'"))


def ends_with_sign(before: str) -> bool:
    """True if the text before a number ends with its minus sign rather than a dash.

    Dashes: `x-3`, `COVID-19`, `- 3`. Signs: `is -3`, `=-3`, `(-3`, `-$3`, `minus 3`.
    """
    before = before.rstrip(CURRENCY)
    if SIGN_IN_WORDS.search(before):
        return True
    if not before.endswith(tuple(MINUS)):
        return False
    left = before[:-1]
    return not (left[-1:].isalnum() or left.rstrip(" \t").endswith(CLOSING))
