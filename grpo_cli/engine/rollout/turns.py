"""Rows whose turn has ended: they wait outside of the batch until their environment has answered.

    outside.leave(row, cache, tokenizer)            # its environment answers in a thread of its own
    outside.wait(on_wait)                           # until one has answered, if there is nothing else to do
    row, cache = outside.next_answered(…)           # its answer is appended; the row can enter the batch

Other rows go on meanwhile. A row's random numbers belong to its own tokens, so the time that an answer takes
does not change the result. No thread holds an array: MLX frees a graph without locks, so an array whose last
reference is another thread's could be freed while this one builds on the same graph.
"""

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from grpo_cli.engine.rollout.rows import CompletionRow
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.environments.protocol import Reply, Turn
from grpo_cli.environments.session import Session
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import StopReason

POLL_SECONDS = 0.1  # between two looks at whether the run was interrupted


class Left(NamedTuple):
    """A row that has left the batch."""

    row: CompletionRow
    session: Session
    turn: Turn
    cache: list[Any]  # of this row alone


class Answer(NamedTuple):
    """The environment's answer to the turn of a row that left, or the exception it raised."""

    place: int  # CompletionRow.index
    reply: Reply | None = None
    error: BaseException | None = None


class Outside:
    """The rows outside of the batch."""

    def __init__(self) -> None:
        self.left: dict[int, Left] = {}  # rows outside, answered ones included, by index
        self.queue: SimpleQueue[Answer] = SimpleQueue()
        self.answered: deque[Answer] = deque()

    def __bool__(self) -> bool:
        """True if any row is outside."""
        return bool(self.left)

    def leave(self, row: CompletionRow, cache: list[Any], tokenizer: Tokenizer) -> None:
        """Start the environment's answer to a row's turn."""
        assert row.session is not None
        row.is_outside = True
        turn = row.turn(tokenizer.spell, tokenizer.eos_ids)
        self.left[row.index] = Left(row, row.session, turn, cache)
        asked = row.index, row.session, turn
        try:
            threading.Thread(target=self.answer, args=asked, daemon=True).start()
        except RuntimeError:  # too many threads, of tools that hang perhaps
            self.answer(*asked)

    def answer(self, index: int, session: Session, turn: Turn) -> None:
        """Ask the environment; runs in a thread."""
        try:
            answer = Answer(index, session.respond(turn))
        except BaseException as error:  # raised again in the main thread, by next_answered
            answer = Answer(index, error=error)
        self.queue.put(answer)

    def answers(self) -> int:
        """The number of rows whose environment has answered."""
        while not self.queue.empty():
            self.answered.append(self.queue.get())
        return len(self.answered)

    def wait(self, on_wait: Callable[[], None]) -> None:
        """Wait until an environment has answered. `on_wait` is called in between and may raise."""
        while not self.answers():
            try:
                self.answered.append(self.queue.get(timeout=POLL_SECONDS))
            except Empty:
                on_wait()

    def next_answered(self, sampling: Sampling) -> tuple[CompletionRow, list[Any]] | None:
        """The next row that goes on, its answer appended, and its cache; None if there is none yet.

        Rows whose environment has finished, or whose answer does not fit, end here. Raises what an
        environment raised.
        """
        while self.answers():
            place, reply, error = self.answered.popleft()
            left = self.left.pop(place)
            left.row.is_outside = False
            if error is not None:
                raise error
            if reply is not None and goes_on(left.row, left.session, left.turn, reply, sampling):
                return left.row, left.cache
        return None


def goes_on(row: CompletionRow, session: Session, turn: Turn, reply: Reply, sampling: Sampling) -> bool:
    """Append the reply to a turn; False if the row ends.

    It ends if the reply is empty, and as truncated if the reply or a token after it does not fit.
    """
    if row.sampled >= sampling.max_new_tokens and (reply.messages or reply.token_ids):
        row.stop_reason = StopReason.LENGTH
        return False
    ids = session.ids_of(reply, turn, row.stop_reason is StopReason.EOS)
    if session.is_full:
        row.stop_reason = StopReason.LENGTH
    if not ids:
        return False
    row.stop_reason = None
    row.add_forced(ids, sampling.cuts_tail)
    row.turn_start = len(row.token_ids)
    for token in ids:
        session.environment.read(token)
    return True
