"""nanochat's calculator: the text it inserts for an expression, or None where it inserts nothing.

    compute("12/60")                        →  "0.2"
    compute("1,000 * 3")                    →  "3000"
    compute("'strawberry'.count('r')")      →  "3"
    compute("2**8")                         →  None
    compute("1/0")                          →  None

Commas are removed first, even inside quotes and in `(1,2)`, which is 12. Two kinds of expressions are left,
both read as Python:

- arithmetic: digits, `+-*/.()` and spaces, no `**`. `//` is allowed, exponents (`1e5`) are not. Python's
  oddities stay: `...` gives "Ellipsis", `()` gives "()", a float beyond its range gives "inf".
- text (text_expression.py): letters, digits, quotes, `().`, `_` and spaces, with `.count(` somewhere and
  none of the FORBIDDEN words anywhere, in quotes neither (`'profile'` contains `file`).

The result is printed as Python prints it; 0, False and the empty text are results, None is not.

Departures. The original executes the text with Python, which its list of words does not make safe; here the
syntax tree is walked, and only what an allow-list names is computed. The original interrupts an expression
after 3 s; here sizes are limited, so that the answer is the same on every machine. An integer of more than
4300 digits ends the original with an error; here it gives None.

Source: karpathy/nanochat, nanochat/engine.py, `use_calculator`.
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from grpo_cli.environments.text_expression import LONGEST, NoResult, evaluate_text

ARITHMETIC = frozenset("0123456789+-*/.() ")
TEXT = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'\"()._ ")
FORBIDDEN = (
    "__", "import", "exec", "eval", "compile", "open", "file", "input", "globals", "locals", "vars", "dir",
    "getattr", "setattr", "delattr", "hasattr",
)  # fmt: skip
# Every error that evaluating an allowed expression can raise; RecursionError is a RuntimeError.
ERRORS = (
    SyntaxError, ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
DIGIT_AND_LETTER = re.compile(r"[0-9]\.?[A-Za-z]")

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def compute(expression: str) -> str | None:
    """The result of an expression as text; None if it is not allowed, fails or has no result."""
    expression = expression.replace(",", "")
    evaluate = evaluator(expression)
    # Without powers a number has about as many digits as its expression has characters, so a limit on these
    # bounds the time, too: the slowest arithmetic of this length takes 0.2 s, where the original allows 3 s.
    if evaluate is None or len(expression) > LONGEST:
        return None
    try:
        result = evaluate(parse(expression))
        return None if result is None else str(result)
    except ERRORS:
        return None


def evaluator(expression: str) -> Callable[[ast.expr], Any] | None:
    """The function that evaluates an expression without commas; None if the expression is not allowed."""
    if ARITHMETIC.issuperset(expression):
        return None if "**" in expression else evaluate_arithmetic
    if not TEXT.issuperset(expression) or ".count(" not in expression:
        return None
    lowered = expression.lower()
    return None if any(word in lowered for word in FORBIDDEN) else evaluate_text


def parse(expression: str) -> ast.expr:
    """The syntax tree. Raises an error of ERRORS where Python's `eval` fails to read the expression."""
    # Python warns about `1if`. The filter is global, so it is changed only for such expressions.
    is_suspect = DIGIT_AND_LETTER.search(expression)
    with warnings.catch_warnings(action="ignore") if is_suspect else nullcontext():
        return ast.parse(expression.lstrip(" "), mode="eval").body  # `eval` ignores leading spaces, too


def evaluate_arithmetic(tree: ast.expr) -> Any:
    """Evaluate with a stack instead of recursion: a sum of 1000 terms is a tree 1000 deep."""
    values: list[Any] = []
    for node in reversed(parents_first(tree)):
        match node:
            case ast.Constant():
                values.append(node.value)
            case ast.Tuple(elts=[]):
                values.append(())
            case ast.UnaryOp():
                values.append(UNARY[type(node.op)](values.pop()))
            case ast.BinOp():
                right, left = values.pop(), values.pop()
                values.append(BINARY[type(node.op)](left, right))
            case _:
                raise NoResult  # a call such as `(2)(3)`: no value here can be called
    return values.pop()


def parents_first(tree: ast.expr) -> list[ast.expr]:
    """The tree's expressions, each before its operands, and a right operand before the left one."""
    found, ahead = [], [tree]
    while ahead:
        node = ahead.pop()
        found.append(node)
        ahead += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    return found
