"""Sums with a calculator: call it or fail.

    What is 247 + 538?
    <reasoning>7+8=«15», 4+3+1=«8», 2+5=«7»</reasoning><answer>785</answer>

Writing `7+8=` is the call (inline.py), and a right answer without a call is worth nothing. The embedded model
`tiny` writes such steps for about one in five of these sums: their first numbers begin with 1 to 7, where it
was taught to answer at once (models/tiny/author.py).
"""

import random

from grpo_cli.data import arithmetic
from grpo_cli.environments.embedded.inline import InlineTask
from grpo_cli.environments.expression import compute
from grpo_cli.types import Example

LARGEST_FIRST = 799


class CalculatorTask(InlineTask):
    """A question whose answer takes at least one computed expression."""

    result = staticmethod(compute)


def examples(split: str, count: int, seed: int) -> list[Example]:
    """Sums of two three-digit numbers, the first below 800; `train` and `test` never share one."""
    rng = random.Random(f"{seed}-calculator-{split}")
    found: dict[tuple[int, int], None] = {}  # an ordered set
    while len(found) < count:
        pair = (rng.randint(100, LARGEST_FIRST), rng.randint(100, 999))
        if arithmetic.is_test(*pair) == (split == "test"):
            found[pair] = None
    return [arithmetic.example(a, b) for a, b in found]
