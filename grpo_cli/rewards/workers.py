"""Processes that compute rewards, each fed by a thread of this one.

    with Workers(["correctness", "mine.py:proof"], count=4, timeout=60.0) as workers:
        future = workers.submit(1, "proof", request)
        scores = future.result()

They are spawned, not forked: MLX and its threads do not survive a fork. Each process loads the rewards
itself.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType

from grpo_cli.errors import RewardError
from grpo_cli.rewards.call import Scores, timed_out
from grpo_cli.rewards.request import RewardRequest
from grpo_cli.rewards.worker import Answer, Question, serve

CLOSING_SECONDS = 2.0  # grace period for running rewards on shutdown
PIPE_ERRORS = (EOFError, OSError)  # errors of a pipe whose process has ended

Task = tuple[Future[Scores], Question]


class Worker:
    """One process and its pipe, used by one thread."""

    def __init__(self, specs: Sequence[str], timeout: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.timeout = timeout
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, specs), daemon=True, name="grpo-reward")
        self.is_loaded = False
        self.failure: RewardError | None = None  # the reason for which the process was killed
        with _interrupts_held():
            self.process.start()
        other.close()  # so that the pipe closes when the process ends

    def ask(self, question: Question) -> Scores:
        """The reward's scores. Raises RewardError: the reward's own, or for a late or dead process."""
        if self.failure is not None:  # requests queued behind a late one are late too, not lost
            raise self.failure
        try:
            if not self.is_loaded:  # slow imports are allowed and do not count as a slow reward
                _without_error(self.connection.recv())
                self.is_loaded = True
            self.connection.send(question)
            if not self.connection.poll(self.timeout or None):
                self.kill()
                self.failure = timed_out(question.name, self.timeout)
                raise self.failure
            scores = _without_error(self.connection.recv()).scores
            assert scores is not None
            return scores
        except PIPE_ERRORS as error:
            raise self._lost(question.name) from error
        except (pickle.PicklingError, TypeError, AttributeError) as error:  # unsupported by pickle
            raise RewardError(
                f"Reward `{question.name}` cannot be called in another process: {error}",
                "a dataset column holds values that cannot be sent there: write `reward_workers = 0`",
            ) from error

    def end(self) -> None:
        """Ask the process to exit."""
        with contextlib.suppress(*PIPE_ERRORS):
            self.connection.send(None)
        self.process.join(CLOSING_SECONDS)

    def kill(self) -> None:
        """Kill the process and everything its rewards started."""
        assert self.process.pid  # it was started
        with contextlib.suppress(ProcessLookupError):  # not a group leader yet, or already gone
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()

    def _lost(self, name: str) -> RewardError:
        self.process.join(CLOSING_SECONDS)
        code = self.process.exitcode
        how = "" if code is None else f", by signal {-code}" if code < 0 else f", with exit code {code}"
        return RewardError(
            f"The process that computed reward `{name}` ended{how}",
            "it exited, crashed or was killed for using too much memory: `--set reward_workers=0` shows "
            "the reward's "
            "own error, and fewer workers need less memory",
        )


class Workers:
    """A pool of processes that answer requests in order of submission."""

    def __init__(self, specs: Sequence[str], count: int, timeout: float) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._workers = [Worker(specs, timeout) for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._feed, args=(worker,), daemon=True) for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, reward: int, name: str, request: RewardRequest) -> Future[Scores]:
        """Submit a request to the reward at this position in the list; the future holds scores or a
        RewardError.
        """
        future: Future[Scores] = Future()
        self._tasks.put((future, Question(reward, name, request)))
        return future

    def close(self) -> None:
        """Stop all processes: cancel queued requests, kill what takes too long."""
        with contextlib.suppress(queue.Empty):
            while task := self._tasks.get_nowait():
                task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for worker in self._workers:
            worker.kill()
        for worker, thread in zip(self._workers, self._threads, strict=True):
            thread.join()
            worker.connection.close()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _feed(self, worker: Worker) -> None:
        while (task := self._tasks.get()) is not None:
            future, question = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(worker.ask(question))
            except RewardError as error:
                future.set_exception(error)
        worker.end()


def _without_error(answer: Answer) -> Answer:
    if answer.error is not None:
        raise answer.error
    return answer


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes with SIGINT blocked: they inherit the mask and ignore Ctrl-C from the first moment."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
