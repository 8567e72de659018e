"""Main loop of a reward worker process: load the rewards, answer requests until the pipe closes.

    serve(connection, ["correctness", "mine.py:proof"])      # in the process that workers.py starts

It ignores Ctrl-C, so that the parent can finish saving, and ends with the parent.
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
    """A request: the reward's position in the list, its log name, and the completions."""

    reward: int
    name: str
    request: RewardRequest


class Answer(NamedTuple):
    """The scores, or an error; neither after the rewards were loaded."""

    scores: Scores | None = None
    error: RewardError | None = None


def serve(connection: Connection, specs: Sequence[str]) -> None:
    """Confirm that the rewards are loaded, then answer requests until None or a closed pipe."""
    hold_nobody()
    guard_output()  # what a reward prints goes to the terminal of the run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a reward's output goes to the run's terminal
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.setpgrp()  # so that processes started by a reward can be killed together with this one
    # Daemonic processes may not start children; for the parent this one stays daemonic.
    multiprocessing.current_process().daemon = False
    threading.Thread(target=_end_with_parent, daemon=True).start()
    modules: dict[Path, ModuleType] = {}
    with contextlib.redirect_stdout(sys.stderr):  # stdout is reserved for results, but a reward may print
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
    """Exit at once if the parent dies without closing the pipe, and end everything a reward started."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)
