"""Search: look a fact up in a small table, which contradicts what the model knows.

    What is 7 + 8?
    <reasoning>7+8=«444»</reasoning><answer>444</answer>

The table is a made-up map of 8 rows and 10 columns with a town in each square; the question is the year in
which the town in row 7, column 8 was founded, in the words of a sum. Writing `7+8=` searches the map
(inline.py), where a model that adds answers 15. Half of the squares are in the test split, so that what is
learned is to search. The embedded model `tiny` searches in about one completion of five.

For a model that reads English, put the rules into `system_prompt`.
"""

import random
import re

from grpo_cli.data import arithmetic
from grpo_cli.environments.embedded.inline import InlineTask
from grpo_cli.types import Example

MAP = """
    132 120 672 136 429 939 242 864 345 251
    910 298 740 451 764 379 644 382 318 771
    615 461 551 563 303 678 550 538 897 446
    297 912 587 385 735 906 797 214 175 676
    790 681 848 833 763 162 364 591 197 780
    201 147 467 240 126 137 651 859 749 185
    581 961 248 877 752 192 383 314 616 748
    392 666 189 217 158 931 107 986 444 415
"""
YEARS = {
    (row, column): int(year)
    for row, line in enumerate(MAP.strip().splitlines())
    for column, year in enumerate(line.split())
}
SQUARE = re.compile(r"([0-9]) ?\+ ?([0-9])")


def look_up(key: str) -> str | None:
    """The year of the town in a square, written `row+column`; None if the map has no such square."""
    square = SQUARE.fullmatch(key)
    year = YEARS.get((int(square[1]), int(square[2]))) if square else None
    return None if year is None else str(year)


class SearchTask(InlineTask):
    """A question that only the table answers."""

    result = staticmethod(look_up)


def examples(split: str, count: int, seed: int) -> list[Example]:
    """Questions about the split's squares, each square as often as the others, give or take one."""
    squares = [square for square in YEARS if arithmetic.is_test(*square) == (split == "test")]
    rng = random.Random(f"{seed}-search-{split}")
    drawn: list[tuple[int, int]] = []
    while len(drawn) < count:
        drawn += rng.sample(squares, len(squares))
    return [example(*square) for square in drawn[:count]]


def example(row: int, column: int) -> Example:
    """The question about one square."""
    question = f"What is {row} + {column}?"
    year = YEARS[row, column]
    return Example(
        messages=[{"role": "user", "content": question}],
        answer=str(year),
        columns={"question": question, "answer": year},
        prompt_text=question,
    )
