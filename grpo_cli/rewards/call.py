"""Call one reward on completions and check its result.

    call("short", function, RewardRequest.of(groups)).values     →  [0.5, None, 1.0]

A reward is called as TRL calls it, with the keywords of request.py, and may be an `async def`. It answers
with one number for each completion, or with None or NaN where it does not apply. A failing reward always
raises an error that names the reward and the completion and shows the traceback of the reward's own code.
"""

import asyncio
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from grpo_cli.errors import Interrupted, RewardError
from grpo_cli.rewards.forks import forks_end
from grpo_cli.rewards.notes import Notes
from grpo_cli.rewards.request import RewardRequest, note_on_answer
from grpo_cli.rewards.table import InThisThread, RewardFunction
from grpo_cli.user_error import describe, place, shown, trace
from grpo_cli.words import plural

SHOWN = 200  # characters of a completion in an error
PROBE_SECONDS = 5.0  # time limit for finding the completion on which an async reward fails
HINT = (
    "it must return one finite number for each completion, as `return [1.0 for text in completions]`, "
    "or None where it does not apply"
)
EXITS = "a reward cannot end the run: catch `BaseException` around code that it executes"


class Scores(NamedTuple):
    """A reward's values for some completions (None if it does not apply), and its notes."""

    values: list[float | None]
    notes: Notes


def is_async(function: RewardFunction) -> bool:
    """True if a call returns an awaitable: an `async def`, or an object with an async `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def call(name: str, function: RewardFunction, request: RewardRequest) -> Scores:
    """A plain reward's checked values, one per completion. Raises RewardError."""
    notes = Notes(len(request.samples))
    try:
        with forks_end():
            returned = function(**request.arguments(function, notes))
    except Interrupted:  # a signal came while the reward ran
        raise
    # A user's function can raise anything, even SystemExit. Nothing is hidden: the error is re-raised
    # with the name of the reward and the completion that caused it.
    except BaseException as error:
        if isinstance(function, InThisThread):
            raise
        raise failure(name, function, request, error, first_failing(function, request)) from error
    return scores_of(checked(name, returned, request), notes)


async def call_async(name: str, function: RewardFunction, request: RewardRequest, timeout: float) -> Scores:
    """An async reward's checked values; the call is cancelled after `timeout` seconds (0: never)."""
    limit, notes = asyncio.timeout(timeout or None), Notes(len(request.samples))
    try:
        async with limit:
            with forks_end():
                returned = await function(**request.arguments(function, notes))  # type: ignore[misc]
    except BaseException as error:  # as above; SystemExit would end the event loop
        if is_ended(error):
            raise
        if isinstance(error, TimeoutError) and limit.expired():
            raise timed_out(name, timeout) from error
        raise failure(name, function, request, error, await first_failing_async(function, request)) from error
    return scores_of(checked(name, returned, request), notes)


def scores_of(values: list[float | None], notes: Notes) -> Scores:
    """The scores of checked values: NaN, like None, does not apply, but is counted, since it may be a slip.

    TRL turns None into NaN and leaves both out alike.
    """
    notes.is_nan = [value is not None and math.isnan(value) for value in values]
    return Scores([None if value is None or math.isnan(value) else value for value in values], notes)


def checked(name: str, returned: Any, request: RewardRequest) -> list[float | None]:
    """One number, NaN or None for each completion, or a RewardError."""
    if isinstance(returned, str | bytes | dict) or not hasattr(returned, "__len__"):
        kind = type(returned).__name__
        raise RewardError(f"Reward `{name}` returned a {kind}, not a list of numbers{show(request, 0)}", HINT)
    count = len(request.samples)
    if len(returned) != count:
        raise RewardError(
            f"Reward `{name}` returned {plural(len(returned), 'value')} for {plural(count, 'completion')}"
            f"{show(request, 0)}",
            HINT,
        )
    return [
        None if value is None else number(name, value, request, index) for index, value in enumerate(returned)
    ]


def number(name: str, value: Any, request: RewardRequest, index: int) -> float:
    """The value as a finite float or NaN. Text is refused, although float() would accept it."""
    cause = None
    try:
        result = math.inf if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: torch's
        result, cause = math.inf, error
    if math.isinf(result):
        raise RewardError(f"Reward `{name}` returned {shown(value)}{show(request, index)}", HINT) from cause
    return result


# --- errors --------------------------------------------------------------------------------------------


def failure(
    name: str, function: Callable[..., Any], request: RewardRequest, error: BaseException, index: int
) -> RewardError:
    """The error for a reward that raised, with the completion that makes it raise on its own."""
    code = getattr(function, "__code__", None)
    where = place(error, Path(code.co_filename) if code else None)
    if not where and code:  # the function was never entered, for example because of a missing keyword
        where = f"{Path(code.co_filename).name}, line {code.co_firstlineno}"
    return RewardError(
        f"Reward `{name}` raised {describe(error)}{f' ({where})' if where else ''}{show(request, index)}",
        cure(error, request, index),
        trace=trace(error),
    )


def is_ended(error: BaseException) -> bool:
    """True if we ended the async reward ourselves: cancelled, or closed without a loop."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no running loop
        return True
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def cure(error: BaseException, request: RewardRequest, index: int) -> str:
    """The hint for a reward that raised."""
    if not isinstance(error, Exception):
        return EXITS
    called = (
        "it is called with lists named prompts, completions, answer, and the dataset's columns: "
        f"{', '.join(request.columns) or 'none'}"
    )
    if note := note_on_answer(request.samples[index].example):
        called = f"{note}; {called}"
    if isinstance(error, TypeError) and str(error).startswith("string indices must be integers"):
        return (
            'with a text prompt a completion is a string, which also supports `completion[0]["content"]`; '
            f"to get lists of messages, put such lists into the prompt column; {called}"
        )
    return called


def timed_out(name: str, timeout: float) -> RewardError:
    """The error for a reward that took too long."""
    return RewardError(
        f"Reward `{name}` did not answer within reward_timeout = {timeout:g} s",
        f"allow it more time: `--set reward_timeout={2 * timeout:g}`, or 0 for no limit",
    )


def first_failing(function: RewardFunction, request: RewardRequest) -> int:
    """Index of the first completion on which the function raises when called with it alone, else 0."""
    for index in range(len(request.samples)):
        try:
            with forks_end():
                function(**alone(request, index, function))
        except Interrupted:
            raise
        except BaseException:  # any error: it was raised a moment ago and is being reported
            return index
    return 0


async def first_failing_async(function: RewardFunction, request: RewardRequest) -> int:
    """Like `first_failing`, for an async reward; also 0 if the search takes too long."""
    limit = asyncio.timeout(PROBE_SECONDS)
    index = 0
    try:
        async with limit:
            for index in range(len(request.samples)):
                with forks_end():
                    await function(**alone(request, index, function))  # type: ignore[misc]
    except BaseException as error:  # as above
        if is_ended(error):
            raise
        return 0 if limit.expired() else index
    return 0


def alone(request: RewardRequest, index: int, function: RewardFunction) -> dict[str, Any]:
    """The keyword arguments for a single completion."""
    return request.part(index, index + 1).arguments(function, Notes(1))


def show(request: RewardRequest, index: int) -> str:
    """The offending completion for an error message; the middle of a long one is omitted."""
    text = request.samples[index].text
    if len(text) > SHOWN:
        text = f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
    return f"\ncompletion {request.first + index + 1} of {request.total}: {text!r}"
