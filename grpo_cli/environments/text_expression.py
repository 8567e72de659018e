"""The calculator's text expressions: methods of texts, `and`, `or`, `not`, `in`, `is`, `if` and generators.

    evaluate_text(ast.parse("'strawberry'.count('r')", mode="eval").body)                       →  3
    evaluate_text(ast.parse("''.join(c for c in 'a b c' if c in 'abc')", mode="eval").body)     →  "abc"

Values are Python's own, so results are the same. Allowed are the syntax of NODES and, by the type of the
value, the attributes of ATTRIBUTES. Not supported, although the original computes it:

- results printed with a memory address: a method that is not called, a generator;
- attributes of generators and methods, through which the original can be left; methods that change a list;
- `format` of a text with braces; `encode` and `decode` with codecs other than CODECS;
- `for` with a target that is not a name, and `async for`;
- texts longer than LONGEST, more work than BUDGET, and nesting deeper than Python's recursion limit.
"""

import ast
import operator
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinMethodType, GeneratorType
from typing import Any

Names = ChainMap[str, Any]  # the variables of a generator and of those around it

LONGEST = 100_000  # characters of an expression, and of any text that it makes
# Limits the time to about a second: a node costs about 1 µs, a character of a text up to 30 ns.
BUDGET, NODE_COST = 10_000_000, 30

NODES = (
    ast.Constant, ast.JoinedStr, ast.Tuple, ast.Name, ast.Load, ast.Store, ast.Attribute, ast.Call,
    ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.IfExp, ast.GeneratorExp, ast.comprehension,
    ast.Compare, ast.In, ast.NotIn, ast.Is, ast.IsNot,
)  # fmt: skip
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
PRINTED = (str, bytes, int, float, complex, bool, tuple, list, type(...), type(None))

_ALL_TEXTS = """
    capitalize center count endswith expandtabs find index isalnum isalpha isascii isdigit islower isspace
    istitle isupper join ljust lower lstrip partition removeprefix removesuffix rfind rindex rjust rpartition
    rsplit rstrip split splitlines startswith strip swapcase title translate upper zfill
"""
_ONLY_STR = "casefold encode format format_map isdecimal isidentifier isnumeric isprintable"
_INTEGERS = """
    as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag is_integer numerator real
    to_bytes
"""
ATTRIBUTES: dict[type, frozenset[str]] = {
    str: frozenset(f"{_ALL_TEXTS} {_ONLY_STR}".split()),
    bytes: frozenset(f"{_ALL_TEXTS} decode fromhex hex".split()),
    int: frozenset(_INTEGERS.split()),
    bool: frozenset(_INTEGERS.split()),
    float: frozenset(("as_integer_ratio", "conjugate", "fromhex", "hex", "imag", "is_integer", "real")),
    complex: frozenset(("conjugate", "imag", "real")),
    tuple: frozenset(("count", "index")),
    list: frozenset(("copy", "count", "index")),
}
# The most that a method makes of one character; 1 for the others.
GROWTH = {
    "expandtabs": 8, "encode": 5, "hex": 2,
    "upper": 3, "lower": 3, "title": 3, "capitalize": 3, "swapcase": 3, "casefold": 3,
}  # fmt: skip
CODECS = ("ascii", "latin1", "latin_1", "utf8", "utf_8", "utf16", "utf_16", "utf32", "utf_32")


class NoResult(ValueError):
    """The expression is outside of what the calculator computes."""


def evaluate_text(tree: ast.expr) -> Any:
    """The value of a text expression. Raises NoResult, or the error that Python raises."""
    share_constants(tree)
    result = Evaluation().value(tree, Names())
    if type(result) not in PRINTED:
        raise NoResult
    return result


def share_constants(tree: ast.expr) -> None:
    """Make equal constants the same object, as Python's compiler does for `is`.

    Raises NoResult for syntax outside NODES even where it is never reached: Python would not compile it.
    """
    shared: dict[tuple[type, Any], Any] = {}
    for node in ast.walk(tree):
        if not isinstance(node, NODES):
            raise NoResult
        if isinstance(node, ast.Constant):
            node.value = shared.setdefault((type(node.value), node.value), node.value)


class Evaluation:
    """One evaluation and what is left of its budget."""

    def __init__(self) -> None:
        self.left = BUDGET

    def spend(self, cost: int) -> None:
        """Raise NoResult once the budget is spent."""
        self.left -= cost
        if self.left < 0:
            raise NoResult

    def value(self, node: ast.expr, names: Names) -> Any:
        """The value of an expression. What `and`, `or` and `if` skip is not evaluated."""
        self.spend(NODE_COST)
        match node:
            case ast.Constant():
                return node.value
            case ast.JoinedStr():  # an f-string; braces are not among the allowed characters
                return "".join(self.value(part, names) for part in node.values)
            case ast.Tuple(elts=[]):
                return ()
            case ast.Name():
                return names[node.id]
            case ast.Attribute():
                return attribute(self.value(node.value, names), node.attr)
            case ast.Call(keywords=[]):
                return self.call(self.value(node.func, names), [self.value(a, names) for a in node.args])
            case ast.UnaryOp():
                return not self.value(node.operand, names)
            case ast.BoolOp():
                return self.first_decisive(node, names)
            case ast.IfExp():
                chosen = node.body if self.value(node.test, names) else node.orelse
                return self.value(chosen, names)
            case ast.Compare():
                return self.compare(node, names)
            case ast.GeneratorExp():
                return self.generator(node, names)
            case _:
                raise NoResult

    def first_decisive(self, node: ast.BoolOp, names: Names) -> Any:
        """The first false value of an `and`, or the first true one of an `or`; else the last value."""
        decides = isinstance(node.op, ast.Or)
        for operand in node.values[:-1]:
            if bool(value := self.value(operand, names)) is decides:
                return value
        return self.value(node.values[-1], names)

    def compare(self, node: ast.Compare, names: Names) -> bool:
        """A chain such as `'a' in 'ab' in 'abc'`, up to the first comparison that is false."""
        left = self.value(node.left, names)
        for op, operand in zip(node.ops, node.comparators, strict=True):
            right = self.value(operand, names)
            self.spend(length(right))
            if not COMPARISONS[type(op)](left, right):
                return False
            left = right
        return True

    def call(self, method: Any, arguments: list[Any]) -> Any:
        """Call a method, unless its result could be too long."""
        if not isinstance(method, BuiltinMethodType):
            raise NoResult  # not callable
        if method.__name__ == "join":  # an iterator is read here, to know its length
            arguments = [list(a) if isinstance(a, GeneratorType) else a for a in arguments]
        longest = longest_result(method, arguments)
        if longest > LONGEST:
            raise NoResult
        self.spend(longest + sum(map(length, arguments)))
        return method(*arguments)

    def generator(self, node: ast.GeneratorExp, names: Names) -> Iterator[Any]:
        """A generator; its first iterable is evaluated at once, as in Python."""
        if any(loop.is_async or not isinstance(loop.target, ast.Name) for loop in node.generators):
            raise NoResult
        first = iter(self.value(node.generators[0].iter, names))
        return self.loop(node, 0, first, names.new_child())

    def loop(self, node: ast.GeneratorExp, depth: int, items: Iterable[Any], names: Names) -> Iterator[Any]:
        """The values of a generator from its loop number `depth` inward."""
        loop = node.generators[depth]
        assert isinstance(loop.target, ast.Name)
        for item in items:
            self.spend(NODE_COST)
            names[loop.target.id] = item
            if not all(self.value(test, names) for test in loop.ifs):
                continue
            if depth + 1 == len(node.generators):
                yield self.value(node.elt, names)
            else:
                inner = iter(self.value(node.generators[depth + 1].iter, names))
                yield from self.loop(node, depth + 1, inner, names)


def attribute(value: Any, name: str) -> Any:
    """An allowed attribute. Raises AttributeError if this version of Python lacks it."""
    if name not in ATTRIBUTES.get(type(value), ()):
        raise NoResult
    return getattr(value, name)


def longest_result(method: BuiltinMethodType, arguments: list[Any]) -> int:
    """An upper bound for the length of a method's result. Raises NoResult for unsupported calls."""
    own: Any = method.__self__
    match method.__name__, arguments:
        case "join", [list() | tuple() | str() | bytes() as parts]:
            return length(own) * len(parts) + sum(map(length, parts))
        case "center" | "ljust" | "rjust" | "zfill" | "to_bytes", [int() as width]:
            return max(length(own), width)
        case "expandtabs", [int() as width]:
            return length(own) + own.count("\t" if isinstance(own, str) else b"\t") * max(width, 0)
        case "translate", [list() | tuple() as table]:
            return length(own) * sum(max(length(item), 1) for item in table)
        case "format" | "format_map", _ if "{" in own or "}" in own:
            raise NoResult
        case "encode" | "decode", [str() as codec] if codec.lower() not in CODECS:
            raise NoResult
    return length(own) * GROWTH.get(method.__name__, 1)


def length(value: Any) -> int:
    """The length of a text, tuple or list; 0 for anything else."""
    return len(value) if isinstance(value, str | bytes | tuple | list) else 0
