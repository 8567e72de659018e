"""Describe an error in a user's code by the lines of that code, without ours.

describe(error)          "ZeroDivisionError: division by zero"
shown(3.5)               "3.5"
place(error, file)       "mine.py, line 12"
trace(error)             "Traceback (most recent call last):\n  File "…/mine.py", line 12, in short\n …"
"""

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS = str(Path(__file__).parent) + "/"
FRAMES = 20  # innermost frames shown
SHOWN = 100  # characters of a wrong value


def describe(error: BaseException) -> str:
    """The error on one line, like the last line of its traceback."""
    name = type(error).__name__
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # a class of the user's, whose text raises as well
        return name
    return f"{name}: {text}" if text else name


def shown(value: Any) -> str:
    """A wrong value of a user's code, shortened."""
    try:
        return repr(value)[:SHOWN]
    # A user's `__repr__` can raise anything, and Python's own refuses an integer of over 4300 digits.
    except Exception:
        return "a value"


def place(error: BaseException, file: Path | None) -> str:
    """The innermost line of `file` in the traceback, else the innermost line outside our code, or ""."""
    steps = [(frame.filename, frame.lineno) for frame in theirs(traceback.extract_tb(error.__traceback__))]
    if isinstance(error, SyntaxError) and error.filename:
        steps.append((error.filename, error.lineno))
    own = [step for step in steps if file is not None and Path(step[0]).resolve() == file.resolve()]
    if not (own or steps):
        return ""
    name, line = (own or steps)[-1]
    return f"{Path(name).name}, line {line}"


def trace(error: BaseException) -> str:
    """The traceback without our own frames; empty if the error never left our code."""
    told = traceback.TracebackException.from_exception(error)
    if not theirs(told.stack) and not isinstance(error, SyntaxError):
        return ""
    for one in chain(told):
        one.stack = traceback.StackSummary.from_list(theirs(one.stack)[-FRAMES:])
    return "".join(told.format()).rstrip()


def chain(told: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """An error followed by its causes and contexts."""
    yield told
    for before in (told.__cause__, told.__context__):
        if before is not None:
            yield from chain(before)


def theirs(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """The frames outside our code and the import system."""
    return [frame for frame in stack if not frame.filename.startswith((OURS, "<frozen importlib"))]
