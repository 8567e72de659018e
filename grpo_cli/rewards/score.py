"""Call the rewards on a batch of rollout groups and write what they say into the rollouts.

Each function is called once with all P·G completions, as TRL calls it:

    function(prompts=[[message, …], …], completions=[[{"role": "assistant", "content": text}], …],
             answer=["18", …], difficulty=[3, …])

with a keyword for every dataset column that all examples have. A reward that fails is never
swallowed: the run stops and says which reward it was, and on which completion.
"""

import contextlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_cli.errors import RewardError
from grpo_cli.rewards.table import RewardFunction
from grpo_cli.rewards.user import describe, place
from grpo_cli.types import Example, Rollout, RolloutGroup

Scored = tuple[Example, Rollout]  # one completion and the problem it answers
SHOWN = 200  # characters of a completion in an error
HINT = "it must return one finite number for each completion: `return [1.0 for text in completions]`"


def score(
    rewards: Sequence[tuple[str, RewardFunction]], weights: Sequence[float], groups: list[RolloutGroup]
) -> None:
    """Fill every rollout's `rewards` (by name) and `reward` (their weighted sum).

    Raises RewardError when a reward raises, or returns anything but one finite number per completion.
    """
    scored = [(group.example, rollout) for group in groups for rollout in group.rollouts]
    values = {name: call(name, function, scored) for name, function in rewards}
    for index, (_, rollout) in enumerate(scored):
        rollout.rewards = {name: values[name][index] for name in values}
        rollout.reward = sum(
            weight * rollout.rewards[name] for weight, name in zip(weights, values, strict=True)
        )


def call(name: str, function: RewardFunction, scored: list[Scored]) -> list[float]:
    """What one reward gives to each completion, checked."""
    if not scored:
        return []
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results; a reward may print
            returned = function(**inputs(scored))
    # The function is the user's and can raise anything. Nothing is hidden: the error is passed on
    # with the name of the reward and the completion that made it fail.
    except Exception as error:
        raise failure(name, function, scored, error) from error
    if isinstance(returned, str | bytes | dict) or not hasattr(returned, "__len__"):
        kind = type(returned).__name__
        raise RewardError(f"Reward `{name}` returned a {kind}, not a list of numbers{show(scored, 0)}", HINT)
    if len(returned) != len(scored):
        raise RewardError(
            f"Reward `{name}` returned {len(returned)} values for {len(scored)} completions{show(scored, 0)}",
            HINT,
        )
    return [number(name, value, scored, index) for index, value in enumerate(returned)]


def inputs(scored: list[Scored]) -> dict[str, list[Any]]:
    """TRL's keywords, built anew for every call: what a function does to its lists stays its own."""
    examples = [example for example, _ in scored]
    shared = [key for key in examples[0].columns if all(key in example.columns for example in examples)]
    return {key: [example.columns[key] for example in examples] for key in shared} | {
        "prompts": [[dict(message) for message in example.messages] for example in examples],
        "completions": [[{"role": "assistant", "content": rollout.text}] for _, rollout in scored],
        "answer": [example.answer for example in examples],
    }


def number(name: str, value: Any, scored: list[Scored], index: int) -> float:
    """The value as a finite float. Texts are refused, though float() would read them."""
    cause = None
    try:
        result = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        result, cause = math.nan, error
    if not math.isfinite(result):
        shown = repr(value)[:100]
        raise RewardError(f"Reward `{name}` returned {shown}{show(scored, index)}", HINT) from cause
    return result


def failure(name: str, function: RewardFunction, scored: list[Scored], error: Exception) -> RewardError:
    """The error for a reward that raised, with the first completion that makes it raise by itself."""
    code = getattr(function, "__code__", None)
    where = place(error, Path(code.co_filename) if code else None)
    columns = ", ".join(key for key in inputs(scored) if key not in ("prompts", "completions", "answer"))
    return RewardError(
        f"Reward `{name}` raised {describe(error)}{where}{show(scored, first_failing(function, scored))}",
        "it is called as `(prompts, completions, answer, **columns)`, a list each; "
        f"the dataset's columns: {columns or 'none'}",
    )


def first_failing(function: RewardFunction, scored: list[Scored]) -> int:
    """Index of the first completion on which the function raises when it gets that one alone, else 0."""
    for index, pair in enumerate(scored):
        try:
            function(**inputs([pair]))
        except Exception:  # any error: it was raised a moment ago and is being reported
            return index
    return 0


def show(scored: list[Scored], index: int) -> str:
    """The offending completion for an error's text, its middle left out when it is long."""
    text = scored[index][1].text
    if len(text) > SHOWN:
        text = f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
    return f"\ncompletion {index + 1} of {len(scored)}: {text!r}"
