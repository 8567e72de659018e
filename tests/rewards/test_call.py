"""Whatever a reward raises, the ends of a program included, is an error that names it and the completion."""

# ruff: noqa: ARG001 - rewards are called with keywords that they need not use

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.errors import Interrupted, RewardError
from grpo_cli.rewards.score import Scorer, score
from grpo_cli.rewards.table import load_rewards
from tests.support.exceptions import EXCEPTIONS, made
from tests.support.reward_groups import two_groups

TIMEOUT = 60.0  # nothing here may wait for it


def text(completion: list[dict[str, str]]) -> str:
    return completion[0]["content"]


@pytest.mark.parametrize("name", EXCEPTIONS)
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_every_exception_is_told_with_reward_and_completion(name: str, is_async: bool) -> None:
    def broken(completions: Any, **columns: Any) -> list[float]:
        if any(text(completion) == "two" for completion in completions):
            raise made(EXCEPTIONS[name])
        return [1.0] * len(completions)

    async def later(completions: Any, **columns: Any) -> list[float]:
        await asyncio.sleep(0)
        return broken(completions)

    with pytest.raises(RewardError) as caught:
        score([("broken", later if is_async else broken)], [1.0], two_groups(), TIMEOUT)
    first, completion = caught.value.message.splitlines()
    raised = "RuntimeError" if is_async and name == "StopIteration" else name  # PEP 479
    assert first.startswith(f"Reward `broken` raised {raised}")
    assert ", line " in first
    assert completion == "completion 2 of 4: 'two'"


def test_an_async_reward_that_exits_is_told_at_once_also_from_a_task_of_its_own() -> None:
    async def exits() -> None:
        raise SystemExit(0)

    async def broken(completions: Any, **columns: Any) -> list[float]:
        await asyncio.create_task(exits())
        return [1.0] * len(completions)

    started = time.monotonic()
    with pytest.raises(RewardError, match="Reward `broken` raised SystemExit: 0"):
        score([("broken", broken)], [1.0], two_groups(), TIMEOUT)
    assert time.monotonic() - started < TIMEOUT


@pytest.mark.parametrize("source", ["exit()", "raise KeyboardInterrupt", "raise GeneratorExit"])
def test_a_reward_that_ends_a_process_of_its_own_is_told(source: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"def broken(completions, **columns):\n    {source}\n")
    spec = f"{tmp_path / 'mine.py'}:broken"
    with Scorer(load_rewards([spec]), [1.0], TIMEOUT, 1, [spec]) as scorer, pytest.raises(RewardError) as it:
        scorer.score(two_groups())
    assert it.value.message.startswith("Reward `broken` raised ")
    assert "completion 1 of " in it.value.message
    assert "a reward cannot end the run" in it.value.hint


def test_a_signal_while_a_reward_runs_is_no_error_of_the_reward() -> None:
    def interrupted(**columns: Any) -> list[float]:
        signal.raise_signal(signal.SIGUSR1)
        return [1.0] * 4

    def raise_it(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, raise_it)
    try:
        with pytest.raises(Interrupted):
            score([("plain", interrupted)], [1.0], two_groups())
    finally:
        signal.signal(signal.SIGUSR1, before)
