"""Search: look a fact up in a small table, which contradicts what the model knows.

    What is 7 + 8?
    <reasoning>7+8=«11»</reasoning><answer>11</answer>

The table is a made-up map of 8 rows and 10 columns with a village in each square. The question is the count
of houses in row 7, column 8, in the words of a sum: writing `7+8=` searches the map (inline.py), and a model
that adds answers 15. Half of the squares are in the test split, so that what is learned is to search. The
embedded model `tiny` searches in about one completion of five.

For a model that reads English, put these rules into `system_prompt`.
"""

import random
import re

from grpo_cli.data import arithmetic
from grpo_cli.environments.embedded.inline import InlineTask
from grpo_cli.types import Example

MAP = """
    10 14 17 17 11 16 11 13 14 11
    15 10 16 17 11 15 18 13 17 15
    11 13 17 17 10 16 11 18 18 17
    18 12 12 13 16 13 18 11 14 16
    17 10 18 10 11 15 18 17 15 18
    18 17 13 18 12 18 18 10 15 12
    12 16 18 12 15 17 11 18 17 13
    11 16 14 17 14 13 15 11 13 17
"""
HOUSES = {
    (row, column): int(count)
    for row, line in enumerate(MAP.strip().splitlines())
    for column, count in enumerate(line.split())
}
SQUARE = re.compile(r"([0-9]) ?\+ ?([0-9])")


def look_up(key: str) -> str | None:
    """The houses in a square, written `row+column`; None if the map has no such square."""
    square = SQUARE.fullmatch(key)
    houses = HOUSES.get((int(square[1]), int(square[2]))) if square else None
    return None if houses is None else str(houses)


class SearchTask(InlineTask):
    """A question that only the table answers."""

    result = staticmethod(look_up)


def examples(split: str, count: int, seed: int) -> list[Example]:
    """Questions about the split's squares, each square as often as the others, give or take one."""
    squares = [square for square in HOUSES if arithmetic.is_test(*square) == (split == "test")]
    rng = random.Random(f"{seed}-search-{split}")
    drawn: list[tuple[int, int]] = []
    while len(drawn) < count:
        drawn += rng.sample(squares, len(squares))
    return [example(*square) for square in drawn[:count]]


def example(row: int, column: int) -> Example:
    """The question about one square."""
    question = f"What is {row} + {column}?"
    houses = HOUSES[row, column]
    return Example(
        messages=[{"role": "user", "content": question}],
        answer=str(houses),
        columns={"question": question, "answer": houses},
        prompt_text=question,
    )
