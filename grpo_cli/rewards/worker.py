"""The life of a process that computes rewards: load them, answer until the pipe closes.

    serve(connection, ["correctness", "mine.py:proof"])      # in the process that workers.py starts

It outlives neither its parent nor Ctrl-C's saving: the parent decides when it ends.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from grpo_cli.errors import RewardError
from grpo_cli.foreign_text import guard_output
from grpo_cli.rewards.call import Asked, call
from grpo_cli.rewards.table import load_reward


class Question(NamedTuple):
    """A reward, by its place in the list, the name it is reported under, and the completions."""

    reward: int
    name: str
    asked: Asked


class Answer(NamedTuple):
    """Its numbers, or the error, with the traceback of what the reward raised."""

    values: list[float]
    error: RewardError | None = None
    trace: str = ""


def serve(connection: Connection, specs: Sequence[str]) -> None:
    """Say that the rewards are loaded, then answer Questions; None, or a closed pipe, is the end."""
    guard_output()  # what a reward prints goes to the terminal of the run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    modules: dict[Path, ModuleType] = {}
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results; a reward may print
        try:
            functions = [load_reward(spec, modules)[1] for spec in specs]
        except RewardError as error:
            connection.send(Answer([], error))
            return
        connection.send(Answer([]))
        with contextlib.suppress(EOFError, BrokenPipeError):
            while (question := connection.recv()) is not None:
                connection.send(_answer(functions[question.reward], question))


def _answer(function: object, question: Question) -> Answer:
    try:
        return Answer(call(question.name, function, question.asked))  # type: ignore[arg-type]
    except RewardError as error:
        cause = error.__cause__
        trace = "".join(traceback.format_exception(cause)) if cause else ""
        return Answer([], error, trace)


def _end_with_parent() -> None:
    """A parent that was killed closes nothing: end at once, whatever a reward is doing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
