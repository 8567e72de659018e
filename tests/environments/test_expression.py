"""nanochat's calculator on a table of expressions, hostile ones, and those where it departs from Python."""

import random
import time
import warnings
from collections.abc import Callable

import pytest

from grpo_cli.environments.expression import compute
from tests.support.by_python import by_python
from tests.support.expressions import TABLE


@pytest.mark.parametrize(("expression", "result"), TABLE.items(), ids=lambda value: str(value)[:40])
def test_table(expression: str, result: str | None) -> None:
    assert compute(expression) == result


def test_the_table_is_large() -> None:
    assert len(TABLE) > 400


def test_deep_and_long_expressions_that_python_reads_have_results() -> None:
    assert compute("+".join(["1"] * 900)) == "900"
    assert compute("-" * 901 + "1") == "-1"
    assert compute("(" * 199 + "1" + ")" * 199) == "1"
    assert compute("(1+" * 199 + "1" + ")" * 199) == "200"
    assert compute(" " * 50_000 + "1") == "1"
    assert compute("'a'" + ".upper()" * 40 + ".count('A')") == "1"
    assert compute("'a' " * 20_000 + ".count('a')") == "20000"
    assert compute(f"'{'a' * 99_980}'.count('a')") == "99980"


# --- what is not computed, although Python does it ------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        "'.count('.encode('punycode')",
        "31613 .to_bytes(2).decode().format('.count(')",  # the bytes 123 and 125 are braces
        "'a.b'.split('.').append('.count(') or 1",
        "(x for x in '.count(').gi_frame and 1",
        "1 if (x for () in '') else '.count('",
    ],
)
def test_departures_from_python(expression: str) -> None:
    assert by_python(expression) is not None
    assert compute(expression) is None


@pytest.mark.parametrize(
    "expression",
    [
        "'a' in (z for v in 'x'.center(9999) for w in 'x'.center(9999) for z in 'b.count('.center(9999))",
        "''.join('a'.center(90000) for v in 'x'.center(90000)).count('a')",
        "'.count('.join('a'.center(900)).join('b'.center(900)).join('c'.center(900))",
        "'.count(' in (x.upper() for x in ('a'.center(99999) for y in 'b'.center(99999)))",
        "not (x for x in '.count(').real",
        "1 .to_bytes(99999999999).count(b'a')",
        "'.count('.expandtabs(99999999999999).ljust(99999999999999)",
        f"{'7' * 4000}*" * 24 + "1",
        f"{'7*' * 49_000}1",
        f"({'1*1+' * 24_000}1)",
    ],
    ids=range(10),
)
def test_hostile_expressions_end_soon_without_a_result(expression: str) -> None:
    start = time.process_time()  # of this process alone: the machine may be busy
    assert compute(expression) is None
    assert time.process_time() - start < 3.0


def test_no_warning_is_raised() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for expression in (
            "1if'a'.count('a')else 2",
            "(2)(3)",
            "0x1for x in '.count('",
            "'.count('is 1",
            "1.if 1",
        ):
            compute(expression)


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
