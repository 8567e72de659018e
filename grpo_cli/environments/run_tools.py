"""Run the calls of one turn concurrently; each ends as a text for the model.

    run_calls(tools, [Call(name="divide", arguments={"a": 1, "b": 0})], timeout=10.0)
        →  [Observation('{"error": "ZeroDivisionError: division by zero"}', failed=True, seconds=0.0)]

A tool runs on a model's arguments: it may raise, exit, hang, or return megabytes. None of that ends the run.
A plain function runs in a thread of its own, which is abandoned when its time is up; an `async` one runs in
the process's event loop for tools, so that a client with open connections stays usable.
"""

import asyncio
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from grpo_cli.environments.tools import Call, Tool
from grpo_cli.errors import Interrupted
from grpo_cli.foreign_text import aside, one_line, well_formed
from grpo_cli.rewards.background import Background
from grpo_cli.rewards.forks import forks_end
from grpo_cli.user_error import describe, place

MOST_CHARACTERS = 20_000  # of one result; the engine cuts again where the tokens do not fit
ERROR_CHARACTERS = 300
PATIENCE = 1.0  # seconds beyond the timeout after which the event loop counts as blocked


@dataclass(frozen=True)
class Observation:
    """The answer to one call."""

    text: str  # valid UTF-8
    failed: bool
    seconds: float
    place: str = ""  # the line of the tool's code that raised: `my_tools.py, line 8`; not for the model

    @staticmethod
    def error(message: str, seconds: float = 0.0, place: str = "") -> "Observation":
        """A failure, as the model reads it: `{"error": …}` on one line."""
        short = one_line(message)
        short = f"{short[:ERROR_CHARACTERS]} …" if len(short) > ERROR_CHARACTERS else short
        return Observation(json.dumps({"error": short}, ensure_ascii=False), True, seconds, place)


class NotJson(Exception):
    """A tool returned a value that is neither text nor JSON."""


def run_calls(tools: Iterable[Tool], calls: Sequence[Call], timeout: float) -> list[Observation]:
    """One observation per call, in order. `timeout`: seconds for all of them together; 0: no limit.

    Raises only Interrupted, or the KeyboardInterrupt of a Ctrl-C during the wait.
    """
    by_name = {tool.name: tool for tool in tools}
    deadline = time.monotonic() + timeout if timeout else None
    running = [begin(by_name, call, timeout) for call in calls]
    return [finish(one, call.name, timeout, deadline) for one, call in zip(running, calls, strict=True)]


def begin(by_name: dict[str, Tool], call: Call, timeout: float) -> Future[Observation]:
    """Start a call; one that names no tool or has wrong arguments is answered at once."""
    tool = by_name.get(call.name)
    if tool is None:
        known = ", ".join(f"`{name}`" for name in by_name)
        return answered(Observation.error(f"there is no tool `{call.name}`; the tools are {known}"))
    if problem := tool.problem_with(call.arguments):
        return answered(Observation.error(problem))
    arguments = deepcopy(call.arguments)  # a tool may change them, even after its time is up
    if tool.is_async:
        return LOOP.start(lambda: attempt_async(tool, arguments, timeout))
    return in_thread(lambda: attempt(tool, arguments))


def finish(future: Future[Observation], name: str, timeout: float, deadline: float | None) -> Observation:
    """Wait for a call, at most until the deadline; an `async` call ends by itself a moment before."""
    is_async = future in LOOP.running
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        return future.result(left if left is None or not is_async else left + PATIENCE)
    except TimeoutError:
        LOOP.abandon(future)
        return late(name, timeout)
    finally:
        LOOP.running.pop(future, None)


def late(name: str, timeout: float) -> Observation:
    """The observation of a call whose time is up."""
    return Observation.error(f"`{name}` did not answer within {timeout:g} s", timeout)


def answered(observation: Observation) -> Future[Observation]:
    """A call that need not run."""
    future: Future[Observation] = Future()
    future.set_result(observation)
    return future


# --- plain functions -----------------------------------------------------------------------------------


def in_thread(work: Callable[[], Observation]) -> Future[Observation]:
    """Run `work` in a daemon thread, which cannot keep the program from ending."""
    future: Future[Observation] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # Interrupted: it goes on in the thread that waits
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="grpo-tool", daemon=True).start()
    except RuntimeError as error:  # too many threads, of abandoned tools perhaps
        return answered(Observation.error(str(error)))
    return future


def attempt(tool: Tool, arguments: dict[str, Any]) -> Observation:
    """Call a plain function and observe its result, or whatever it raises."""
    begun = time.monotonic()
    try:
        with aside(), forks_end():
            result = tool.function(**arguments)
            if inspect.iscoroutine(result):  # an `async def` behind a decorator
                result = asyncio.run(result)
            text = text_of(tool.name, result)
    # A tool can raise anything, even SystemExit. The model is told, and the run goes on.
    except BaseException as error:
        return raised(error, time.monotonic() - begun)
    return Observation(text, False, time.monotonic() - begun)


# --- async functions -----------------------------------------------------------------------------------


class Loop:
    """The process's event loop for tools; renewed when a tool blocks it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.background: Background | None = None
        self.running: dict[Future[Observation], Background] = {}

    def start(self, work: Callable[[], Any]) -> Future[Observation]:
        """Start a coroutine in the loop."""
        with self.lock:
            self.background = self.background or Background("grpo-tools")
            future: Future[Observation] = self.background.start(work())
            self.running[future] = self.background
            return future

    def abandon(self, future: Future[Observation]) -> None:
        """Begin a new loop with the next call, if this late call runs in the present one."""
        with self.lock:
            if self.running.get(future) is self.background:
                self.background = None


LOOP = Loop()


async def attempt_async(tool: Tool, arguments: dict[str, Any], timeout: float) -> Observation:
    """Like `attempt`, for an async function, which is cancelled when its time is up."""
    begun, limit = time.monotonic(), asyncio.timeout(timeout or None)
    try:
        async with limit:
            with aside(), forks_end():
                text = text_of(tool.name, await tool.function(**arguments))
    except BaseException as error:  # as above; SystemExit would end the event loop
        if isinstance(error, TimeoutError) and limit.expired():
            return late(tool.name, timeout)
        return raised(error, time.monotonic() - begun)
    return Observation(text, False, time.monotonic() - begun)


# --- texts ---------------------------------------------------------------------------------------------


def raised(error: BaseException, seconds: float) -> Observation:
    """The observation of a tool that raised; an interruption of the run is raised again."""
    if isinstance(error, Interrupted):
        raise error
    if isinstance(error, NotJson):
        return Observation.error(str(error), seconds)
    try:
        return Observation.error(describe(error), seconds, place(error, None))
    except Interrupted:
        raise
    except BaseException:  # the error is a class of the user's, and its text raises as well
        return Observation.error(type(error).__name__, seconds)


def text_of(name: str, result: Any) -> str:
    """A result as text of at most MOST_CHARACTERS: a text as it is, any other value as JSON."""
    if isinstance(result, str):
        return bounded(str.__str__(result))
    try:
        return bounded(json.dumps(result, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        kind = type(result).__name__
        raise NotJson(
            f"`{name}` returned a value of type {kind} that is neither text nor JSON: {error}"
        ) from error


def bounded(text: str) -> str:
    """The text as valid UTF-8; of a long one the head, and a mark that says so."""
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}\n[cut: {MOST_CHARACTERS} of {len(text)} characters are shown]"
    return well_formed(text)
