"""nanochat's calculator on a table of expressions, hostile ones, and those where it departs from Python."""

import time
import warnings

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
