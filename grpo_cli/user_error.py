"""Describe an error in a user's code by the lines of that code, without ours.

describe(error)          "ZeroDivisionError: division by zero"
place(error, file)       "mine.py, line 12"
trace(error)             "Traceback (most recent call last):\n  File "…/mine.py", line 12, in short\n …"
"""

import traceback
from collections.abc import Iterator
from pathlib import Path

OURS = str(Path(__file__).parent) + "/"
FRAMES = 20  # innermost frames shown


def describe(error: BaseException) -> str:
    """The error on one line, like the last line of its traceback."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
