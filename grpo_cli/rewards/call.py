"""Ask one reward about completions, and check what it answers.

A reward is called as TRL calls it, with a list for every keyword:

    function(prompts=[[message, …], …], completions=[[{"role": "assistant", "content": text}], …],
             answer=["18", …], difficulty=[3, …])

with a keyword for every dataset column that all examples have. It may be an `async def`. A reward that
fails is never swallowed: the error says which reward it was, and on which completion.
"""

import asyncio
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_cli.errors import Interrupted, RewardError
from grpo_cli.rewards.table import RewardFunction
from grpo_cli.rewards.user import describe, place
from grpo_cli.types import Example, Message, RolloutGroup

SHOWN = 200  # characters of a completion in an error
PROBE_SECONDS = 5.0  # for finding the completion on which an async reward fails
HINT = "it must return one finite number for each completion: `return [1.0 for text in completions]`"
EXITS = "a reward cannot end the run: catch `BaseException` around code that it executes"


@dataclass(frozen=True)
class Asked:
    """Completions, and what a reward is told of each: those of a batch, or a part of them."""

    messages: list[list[Message]]
    texts: list[str]
    answers: list[str]
    columns: dict[str, list[Any]]
    first: int = 0  # where the part begins in its batch
    total: int = 0  # completions of the batch

    @staticmethod
    def of(groups: list[RolloutGroup]) -> "Asked":
        """All completions of a batch, in order."""
        return Asked.some(groups, shared_columns([group.example for group in groups if group.rollouts]))

    @staticmethod
    def some(
        groups: list[RolloutGroup], columns: list[str], first: int = 0, total: int | None = None
    ) -> "Asked":
        """Those of some groups of a batch of `total`, with the columns that all of its examples have."""
        pairs = [(group.example, rollout) for group in groups for rollout in group.rollouts]
        examples = [example for example, _ in pairs]
        return Asked(
            [example.messages for example in examples],
            [rollout.text for _, rollout in pairs],
            [example.answer for example in examples],
            {name: [example.columns[name] for example in examples] for name in columns},
            first,
            len(pairs) if total is None else total,
        )

    def part(self, start: int, stop: int) -> "Asked":
        """The completions from `start` to before `stop`, which know their places in the batch."""
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        return Asked(
            self.messages[start:stop],
            self.texts[start:stop],
            self.answers[start:stop],
            columns,
            self.first + start,
            self.total,
        )

    def arguments(self) -> dict[str, list[Any]]:
        """TRL's keywords, built anew for every call: what a function does to its lists stays its own."""
        return {name: list(values) for name, values in self.columns.items()} | {
            "prompts": [[dict(message) for message in messages] for messages in self.messages],
            "completions": [[{"role": "assistant", "content": text}] for text in self.texts],
            "answer": list(self.answers),
        }


def shared_columns(examples: list[Example]) -> list[str]:
    """The dataset's columns that all of these examples have."""
    names = examples[0].columns if examples else {}
    return [name for name in names if all(name in example.columns for example in examples)]


def is_async(function: RewardFunction) -> bool:
    """Whether a call gives something to await: an `async def`, or an object whose call is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def call(name: str, function: RewardFunction, asked: Asked) -> list[float]:
    """What a plain reward gives to each completion, checked. Raises RewardError."""
    try:
        returned = function(**asked.arguments())
    except Interrupted:  # a signal came while the reward ran
        raise
    # The function is the user's and can raise anything, SystemExit too. Nothing is hidden: the error is
    # passed on with the name of the reward and the completion that made it fail.
    except BaseException as error:
        raise failure(name, function, asked, error, first_failing(function, asked)) from error
    return checked(name, returned, asked)


async def call_async(name: str, function: RewardFunction, asked: Asked, timeout: float) -> list[float]:
    """The same of an async reward, cancelled after `timeout` seconds (0: never)."""
    limit = asyncio.timeout(timeout or None)
    try:
        async with limit:
            returned = await function(**asked.arguments())  # type: ignore[misc]
    except BaseException as error:  # as above; SystemExit would end the event loop
        if is_ended(error):
            raise
        if isinstance(error, TimeoutError) and limit.expired():
            raise late(name, timeout) from error
        raise failure(name, function, asked, error, await first_failing_async(function, asked)) from error
    return checked(name, returned, asked)


def checked(name: str, returned: Any, asked: Asked) -> list[float]:
    """One finite number for each completion, or a RewardError."""
    if isinstance(returned, str | bytes | dict) or not hasattr(returned, "__len__"):
        kind = type(returned).__name__
        raise RewardError(f"Reward `{name}` returned a {kind}, not a list of numbers{show(asked, 0)}", HINT)
    count = len(asked.texts)
    if len(returned) != count:
        raise RewardError(
            f"Reward `{name}` returned {len(returned)} values for {count} completions{show(asked, 0)}", HINT
        )
    return [number(name, value, asked, index) for index, value in enumerate(returned)]


def number(name: str, value: Any, asked: Asked, index: int) -> float:
    """The value as a finite float. Texts are refused, though float() would read them."""
    cause = None
    try:
        result = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        result, cause = math.nan, error
    if not math.isfinite(result):
        shown = repr(value)[:100]
        raise RewardError(f"Reward `{name}` returned {shown}{show(asked, index)}", HINT) from cause
    return result


# --- what went wrong ----------------------------------------------------------------------------------


def failure(
    name: str, function: Callable[..., Any], asked: Asked, error: BaseException, index: int
) -> RewardError:
    """The error for a reward that raised, with the completion that makes it raise by itself."""
    code = getattr(function, "__code__", None)
    where = place(error, Path(code.co_filename) if code else None)
    return RewardError(
        f"Reward `{name}` raised {describe(error)}{where}{show(asked, index)}",
        "it is called as `(prompts, completions, answer, **columns)`, a list each; "
        f"the dataset's columns: {', '.join(asked.columns) or 'none'}"
        if isinstance(error, Exception)
        else EXITS,
    )


def is_ended(error: BaseException) -> bool:
    """Whether an async reward raised this because we end it: cancelled by us, or closed without a loop."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs
        return True
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def late(name: str, timeout: float) -> RewardError:
    """The error for a reward that took too long."""
    return RewardError(
        f"Reward `{name}` did not answer within reward_timeout = {timeout:g} seconds",
        f"allow it more time: `--set reward_timeout={2 * timeout:g}`, or 0 for no limit",
    )


def first_failing(function: RewardFunction, asked: Asked) -> int:
    """Index of the first completion on which the function raises when it gets that one alone, else 0."""
    for index in range(len(asked.texts)):
        try:
            function(**asked.part(index, index + 1).arguments())
        except Interrupted:
            raise
        except BaseException:  # any error: it was raised a moment ago and is being reported
            return index
    return 0


async def first_failing_async(function: RewardFunction, asked: Asked) -> int:
    """The same of an async reward; 0, too, where that takes long."""
    limit = asyncio.timeout(PROBE_SECONDS)
    index = 0
    try:
        async with limit:
            for index in range(len(asked.texts)):
                await function(**asked.part(index, index + 1).arguments())  # type: ignore[misc]
    except BaseException as error:  # as above
        if is_ended(error):
            raise
        return 0 if limit.expired() else index
    return 0


def show(asked: Asked, index: int) -> str:
    """The offending completion for an error's text, its middle left out when it is long."""
    text = asked.texts[index]
    if len(text) > SHOWN:
        text = f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
    return f"\ncompletion {asked.first + index + 1} of {asked.total}: {text!r}"
