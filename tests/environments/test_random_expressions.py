"""Random expressions give what Python's own `eval` gives."""

import random
from collections.abc import Callable

import pytest

from grpo_cli.environments.expression import compute
from tests.support.by_python import by_python


def arithmetic(rng: random.Random, depth: int = 4) -> str:
    """A random arithmetic expression, well formed but for what Python does not compute."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(
            ["0", "1", "2.5", ".5", "7.", "12", "007", "1,000", "()", "...", str(rng.randrange(10**20))]
        )
    inner = arithmetic(rng, depth - 1)
    if (kind := rng.random()) < 0.15:
        return rng.choice("+-") + inner
    if kind < 0.3:
        return f"({inner})"
    operator = rng.choice(["+", "-", "*", "/", "//", " + ", " * ", " ", "", "**"][: rng.choice([5, 7, 10])])
    return inner + operator + arithmetic(rng, depth - 1)


def noise(rng: random.Random, depth: int = 4) -> str:
    """Random characters of arithmetic."""
    return "".join(rng.choices("0123456789+-*/.() ,", k=rng.randint(1, 2 * depth + 1)))


NAMES = """
    upper lower title strip split count find index isdigit join center zfill encode decode partition hex real
    splitlines startswith rsplit translate swapcase expandtabs bit_length to_bytes from_bytes is_integer imag
    as_integer_ratio copy removeprefix casefold isidentifier fromhex ljust rindex format
"""
METHODS = NAMES.split()


def texts(rng: random.Random, depth: int = 4) -> str:
    """A random text expression."""
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(
            [*"xyz", "'a'", "'aba'", "''", "b'a'", "' b '", "'10'", "3", "1.5", "()", "True", "0", "2j"]
        )
    one, two = texts(rng, depth - 1), texts(rng, depth - 1)
    kind = rng.random()
    if kind < 0.5:
        return f"({one}).{rng.choice(METHODS)}" + rng.choice(["()", f"({two})", f"({two})", ""])
    if kind < 0.6:
        return f"({one} {rng.choice(['and', 'or', 'in', 'not in', 'is', 'is not'])} {two})"
    if kind < 0.7:
        return f"(not {one})"
    if kind < 0.8:
        return f"({one} if {two} else {texts(rng, depth - 1)})"
    loops = f"for {rng.choice('xyz')} in {two}" + rng.choice(["", "", f" if {texts(rng, depth - 1)}"])
    more = rng.choice(["", "", f" for {rng.choice('xyz')} in {texts(rng, depth - 1)}"])
    return f"''.join({one} {loops}{more})"


def counted(rng: random.Random, depth: int = 4) -> str:
    """A random text expression with the `.count(` that makes it one."""
    inner = texts(rng, depth)
    return rng.choice(
        [f"({inner}).count('a')", f"('.count(' and {inner})", f"{inner} if 'b'.count('b') else 1"]
    )


@pytest.mark.parametrize(("make", "results"), [(arithmetic, 600), (noise, 400), (counted, 600)])
def test_random_expressions_give_what_python_gives(make: Callable[..., str], results: int) -> None:
    rng = random.Random(20251130)
    expressions = [make(rng, rng.randint(1, 5)) for _ in range(4000)]
    differing = [(e, compute(e), expected) for e in expressions if compute(e) != (expected := by_python(e))]
    assert differing == []
    assert sum(by_python(e) is not None for e in expressions) > results


def test_random_trees_are_evaluated_in_order() -> None:
    rng = random.Random(7)
    for _ in range(300):
        terms = [str(rng.randrange(1, 50)) for _ in range(rng.randint(2, 60))]
        expression = terms[0] + "".join(rng.choice(["-", "//", "/", "*", "+"]) + term for term in terms[1:])
        assert compute(expression) == by_python(expression)
