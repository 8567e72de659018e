"""Async rewards: run at once, timed out, reported like any other."""

# ruff: noqa: ARG001, ARG002 - rewards are called with keywords that they need not use

import asyncio
import threading
import time
from typing import Any

import pytest

from grpo_cli.errors import RewardError
from grpo_cli.rewards.call import is_async
from grpo_cli.rewards.score import Scorer, score
from tests.support.reward_groups import group, two_groups
from tests.support.waiting import HANG, NEVER


async def length(completions: Any, **columns: Any) -> list[float]:
    await asyncio.sleep(0)
    return [float(len(completion[0]["content"])) for completion in completions]


def rewards_of(groups: list[Any]) -> list[dict[str, float]]:
    return [rollout.rewards for group in groups for rollout in group.rollouts]


def test_an_async_reward_is_scored_beside_a_plain_one() -> None:
    groups = two_groups()
    score([("length", length), ("one", lambda **_: [1.0] * 4)], [1.0, 100.0], groups)
    assert rewards_of(groups) == [
        {"length": 18.0, "one": 1.0},
        {"length": 3.0, "one": 1.0},
        {"length": 18.0, "one": 1.0},
        {"length": 18.0, "one": 1.0},
    ]
    assert [list(rewards) for rewards in rewards_of(groups)] == [["length", "one"]] * 4
    assert groups[0].rollouts[1].reward == 103.0


def test_what_is_async() -> None:
    class Judge:
        async def __call__(self, **columns: Any) -> list[float]:
            return [0.5] * 4

    class Plain:
        def __call__(self, **columns: Any) -> list[float]:
            return [0.5] * 4

    assert is_async(length)
    assert is_async(Judge())
    assert not is_async(Plain())
    assert not is_async(lambda **_: [])
    groups = two_groups()
    score([("judge", Judge())], [1.0], groups)
    assert groups[0].rollouts[0].reward == 0.5


def test_those_of_a_batch_run_at_once_and_while_a_plain_one_runs() -> None:
    """Each waits for the others, the plain one, too: one after the other would hang."""
    here = threading.Barrier(4)

    async def meets(**columns: Any) -> list[float]:
        await asyncio.get_running_loop().run_in_executor(None, here.wait, HANG)
        return [1.0] * 4

    def plain(**columns: Any) -> list[float]:
        here.wait(HANG)
        return [1.0] * 4

    groups = two_groups()
    score([("a", meets), ("plain", plain), ("b", meets), ("c", meets)], [1.0] * 4, groups, timeout=HANG)
    assert groups[0].rollouts[0].reward == 4.0


def test_started_and_awaited_later() -> None:
    begun, go = threading.Event(), threading.Event()

    async def slow(**columns: Any) -> list[float]:
        begun.set()
        await asyncio.get_running_loop().run_in_executor(None, go.wait, HANG)
        return [2.0] * 4

    groups = two_groups()
    with Scorer([("slow", slow)], [1.0]) as scorer:
        pending = scorer.start(groups)
        assert begun.wait(HANG)  # it runs, though nobody waits for it
        assert rewards_of(groups) == [{}] * 4
        go.set()
        pending.result()
    assert rewards_of(groups) == [{"slow": 2.0}] * 4


def test_one_loop_serves_all_batches() -> None:
    """What a reward keeps between calls, as a client's connections, belongs to one loop."""
    loops: list[Any] = []

    async def keeps(**columns: Any) -> list[float]:
        loops.append(asyncio.get_running_loop())
        return [1.0] * 4

    with Scorer([("keeps", keeps)], [1.0]) as scorer:
        scorer.score(two_groups())
        scorer.score(two_groups())
    assert loops[0] is loops[1]
    assert loops[0].is_closed()
    assert not [thread for thread in threading.enumerate() if thread.name == "grpo-rewards"]


def test_a_timeout_names_the_reward_the_seconds_and_the_key() -> None:
    cancelled = []

    async def forever(**columns: Any) -> list[float]:
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return []

    started = time.monotonic()
    with pytest.raises(RewardError) as error:
        score([("quick", length), ("judge", forever)], [1.0, 1.0], two_groups(), timeout=0.2)
    assert time.monotonic() - started < HANG
    assert cancelled == [True]
    assert error.value.message == "Reward `judge` did not answer within reward_timeout = 0.2 s"
    assert error.value.hint == "allow it more time: `--set reward_timeout=0.4`, or 0 for no limit"


def test_one_that_blocks_its_loop_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_cli.rewards.score.PROBE_SECONDS", -0.9)
    monkeypatch.setattr("grpo_cli.rewards.background.CLOSING_SECONDS", 0.1)

    async def blocks(**columns: Any) -> list[float]:
        released.wait(NEVER)
        return [1.0] * 4

    released = threading.Event()
    with pytest.raises(RewardError) as error:
        score([("blocks", blocks)], [1.0], two_groups(), timeout=0.2)
    released.set()
    assert "it blocks its event loop" in error.value.hint


def test_a_timeout_of_its_own_is_an_error_of_the_reward() -> None:
    async def gives_up(**columns: Any) -> list[float]:
        raise TimeoutError("no answer from the judge")

    with pytest.raises(RewardError) as error:
        score([("judge", gives_up)], [1.0], two_groups(), timeout=HANG)
    assert error.value.message.startswith(
        "Reward `judge` raised TimeoutError: no answer from the judge (test_background.py, line"
    )


def test_no_timeout_is_no_limit() -> None:
    groups = two_groups()
    score([("length", length)], [1.0], groups, timeout=0.0)
    assert groups[0].rollouts[0].reward == 18.0


def test_an_error_has_its_line_and_its_completion() -> None:
    async def brittle(completions: Any, **columns: Any) -> list[float]:
        await asyncio.sleep(0)
        return [1.0 / (completion[0]["content"] != "two") for completion in completions]

    with pytest.raises(RewardError) as error:
        score([("brittle", brittle)], [1.0], two_groups(), timeout=HANG)
    line = brittle.__code__.co_firstlineno + 2
    assert error.value.message == (
        "Reward `brittle` raised ZeroDivisionError: float division by zero "
        f"(test_background.py, line {line})\n"
        "completion 2 of 4: 'two'"
    )
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_wrong_value_is_refused() -> None:
    async def nothing(**columns: Any) -> Any:
        return None

    with pytest.raises(RewardError, match="`mine` returned a NoneType, not a list of numbers"):
        score([("mine", nothing)], [1.0], [group("", "", ["x"])])


def test_a_plain_error_comes_first_and_ends_what_else_runs() -> None:
    ended = threading.Event()

    begun = threading.Event()

    async def waits(**columns: Any) -> list[float]:
        begun.set()
        try:
            await asyncio.sleep(NEVER)
        finally:
            ended.set()
        return []

    def fails(**columns: Any) -> list[float]:
        assert begun.wait(HANG)
        raise ValueError("bad")

    with pytest.raises(RewardError, match="Reward `fails` raised ValueError: bad"):
        score([("waits", waits), ("fails", fails)], [1.0, 1.0], two_groups())
    assert ended.wait(HANG)


def test_the_first_of_the_list_is_reported() -> None:
    async def slow_failure(**columns: Any) -> list[float]:
        await asyncio.sleep(0.05)
        raise ValueError("slow")

    async def quick_failure(**columns: Any) -> list[float]:
        raise ValueError("quick")

    with pytest.raises(RewardError, match="Reward `a` raised ValueError: slow"):
        score([("a", slow_failure), ("b", quick_failure)], [1.0, 1.0], two_groups())
