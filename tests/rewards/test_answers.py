"""Answers: what is taken out of a completion, and what counts as equal."""

import time
from decimal import Decimal

import pytest

from grpo_cli.rewards.answers import answers_match, extract_answer
from grpo_cli.rewards.numbers import last_number, parse_number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>18</answer>", "18"),
        ("<reasoning>9 + 9</reasoning>\n<answer>\n 18 \n</answer>\n", "18"),
        ("<answer>5</answer> no, <answer>6</answer>", "6"),
        ("<answer>5</answer> no, <answer>6", "5"),
        ("<answer>5</answer></answer>", "5"),
        ("<answer><answer>5</answer>", "5"),
        ("<answer></answer>", ""),
        ("<answer>12", None),
        ("</answer>5<answer>", None),
        ("18", None),
        ("", None),
    ],
)
def test_the_last_closed_answer_is_extracted(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,000", "1000"),
        ("$18", "18"),
        ("18.0", "18"),
        ("-3", "-3"),
        ("−3", "-3"),
        ("18.", "18"),
        ("50%", "50"),
        (" 1,234,567.50 ", "1234567.5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("$ 18", "18"),
        ("18€", "18"),
        ("+7", "7"),
        (".5", "0.5"),
        ("007", "7"),
        ("2e3", "2000"),
        ("-0", "0"),
        ("0.1", "0.1"),
        ("18 apples", "18"),  # a unit
        ("10,00", "10"),  # a decimal comma: no thousands have two digits
        ("1,0000", "1"),
        ("1/2", "0.5"),
        ("x = 18 km/h", "18"),
    ],
)
def test_a_number_is_read_exactly(text: str, number: str) -> None:
    assert parse_number(text) == Decimal(number)


NO_NUMBERS = """
eighteen | ,5 | 1.2.3 | --3 | -$-3 | 5 6 | 1_000 | nan | inf | - | $ | % | १८ | 1e999999999
Apollo 11 | 1/0 | 1/2/2024 | 10-3 | 18 or 19 | 2x | √2 | 12:30"""


@pytest.mark.parametrize("text", ["", *NO_NUMBERS.replace("\n", "|").split("|")])
def test_anything_else_is_no_number(text: str) -> None:
    assert parse_number(text) is None


def test_a_megabyte_of_digits_is_no_number_but_equals_itself() -> None:
    digits = "9" * 1_000_000
    assert parse_number(digits) is None
    assert parse_number("1" + ",000" * 300_000) is None
    assert last_number(digits) is None
    assert answers_match(digits, digits)


@pytest.mark.parametrize(
    ("got", "gold", "match"),
    [
        ("1,000", "1000", True),
        ("$18", "18", True),
        ("18.0", "18", True),
        ("-3", "−3", True),
        ("3", "-3", False),
        ("0.30000000000000004", "0.3", False),
        ("9007199254740993", "9007199254740992", False),  # equal as floats
        (" Paris\n", "Paris", True),
        ("paris", "Paris", False),
        ("18", "Paris", False),
        ("", "18", False),
        (None, "18", False),
    ],
)
def test_answers_are_compared_as_numbers_and_else_as_text(got: str | None, gold: str, match: bool) -> None:
    assert answers_match(got, gold) is match


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 18.", "18"),
        ("so 1,000", "1000"),
        ("It costs $18!", "18"),
        ("x = -3", "-3"),
        ("x=-3", "-3"),
        ("is −3.", "-3"),
        ("(-3)", "-3"),
        ("**-3**", "-3"),
        ("a loss of -$18", "-18"),
        ("$-18", "-18"),
        ("-3", "-3"),
        ("3, -4", "-4"),
        ("5 - 3 = 2", "2"),
        ("x-3", "3"),
        ("COVID-19", "19"),
        ("line\n- 3", "3"),
        ("10\n-3", "-3"),
        ("1,2345", "1.2345"),  # a decimal comma
        ("3.5.", "3.5"),
        ("half: .5", "0.5"),
        ("50%", "50"),
        ("<answer>-7</answer>", "-7"),
        ("7 apples", "7"),
        ("-0", "0"),
    ],
)
def test_the_last_number_is_found_with_its_sign(text: str, number: str) -> None:
    assert last_number(text) == Decimal(number)


# Operations left undone, and lists to choose from, were read as their last number.
UNREADABLE = ["10-3", "10 - 3", "10 -3", "(1 + 9)-3", "1, 2,3", "5,100 or 7"]


@pytest.mark.parametrize("text", ["", "none", "-", "…", *UNREADABLE])
def test_a_text_without_a_sensible_number_has_none(text: str) -> None:
    assert last_number(text) is None


@pytest.mark.parametrize(
    "part", ["<answer>", "</answer>", "1,", "1,111", "1.", "-", "1e1", " ", "9", "$", "-$"]
)
def test_hostile_texts_take_linear_time(part: str) -> None:
    text = part * (1_000_000 // len(part))
    start = time.process_time()  # of this process alone: the machine may be busy
    extract_answer(text)
    last_number(text)
    parse_number(text)
    assert time.process_time() - start < 5.0
