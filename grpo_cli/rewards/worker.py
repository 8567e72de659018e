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
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from grpo_cli.errors import RewardError
from grpo_cli.foreign_text import guard_output
from grpo_cli.outlet import hold_nobody
from grpo_cli.rewards.call import Scores, call
from grpo_cli.rewards.request import RewardRequest
from grpo_cli.rewards.table import RewardFunction, load_reward


class Question(NamedTuple):
    """A reward, by its place in the list, the name it is reported under, and the completions."""

    reward: int
    name: str
    request: RewardRequest


class Answer(NamedTuple):
    """Its scores, or the error; neither where the rewards were only loaded."""

    scores: Scores | None = None
    error: RewardError | None = None


def serve(connection: Connection, specs: Sequence[str]) -> None:
    """Say that the rewards are loaded, then answer Questions; None, or a closed pipe, is the end."""
    hold_nobody()
    guard_output()  # what a reward prints goes to the terminal of the run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.setpgrp()  # so that processes which a reward starts can be ended with this one
    multiprocessing.current_process().daemon = False  # which may start none; to the parent it stays one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    modules: dict[Path, ModuleType] = {}
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results; a reward may print
        try:
            functions = [load_reward(spec, modules)[1] for spec in specs]
        except RewardError as error:
            connection.send(Answer(error=error))
            return
        connection.send(Answer())
        with contextlib.suppress(EOFError, BrokenPipeError):
            while (question := connection.recv()) is not None:
                connection.send(_answer(functions[question.reward], question))


def _answer(function: RewardFunction, question: Question) -> Answer:
    try:
        return Answer(call(question.name, function, question.request))
    except RewardError as error:
        return Answer(error=error)


def _end_with_parent() -> None:
    """A parent that was killed closes nothing: end at once, with all that a reward has started."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)
