"""The names that a user's Python file defines, read without running it.

    names_in('def lookup(city): …\nclass Wordle: …')  →  {"lookup": "function", "Wordle": "class"}

A name that is imported or assigned has the kind "". A file that makes names at run time (`from x import *`,
`globals()`, `__getattr__`) may define any, so nothing can be said about it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

Names = dict[str, str]
AT_RUN_TIME = ("globals", "vars", "locals", "setattr", "exec", "eval", "__getattr__", "modules")
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
LARGEST = 1 << 20  # bytes of a file that is read


def names_of_file(path: Path) -> Names | None:
    """The names that a file defines; None if they are unknown before it runs, or it cannot be read.

    Raises SyntaxError for a file that is not Python.
    """
    try:
        if path.suffix != ".py" or path.stat().st_size > LARGEST:
            return None
        return names_in(path.read_bytes())
    except (OSError, RecursionError, MemoryError):
        return None
    except SyntaxError:
        raise
    except ValueError:  # a NUL byte, or a path that cannot exist
        return None


def names_in(source: str | bytes) -> Names | None:
    """The names that a source defines at its top level; None if it makes names at run time."""
    tree = ast.parse(source)
    if any(map(_makes_names, ast.walk(tree))):
        return None
    return dict(_bound(tree))


def _makes_names(node: ast.AST) -> bool:
    match node:
        case ast.ImportFrom(names=[ast.alias(name="*")]) | ast.Global():
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name):
            return name in AT_RUN_TIME
    return False


def _bound(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each name bound outside of functions and classes, with its kind."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, "function"
            case ast.ClassDef(name=name):
                yield name, "class"
            case ast.alias(name=name, asname=other):
                yield other or name.partition(".")[0], ""
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, ""
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield name, ""
        if not isinstance(node, SCOPES):
            yield from _bound(node)
