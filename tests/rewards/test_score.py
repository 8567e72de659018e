"""Scoring a batch: what rewards are given, what is written into the rollouts, and how they may fail."""

# ruff: noqa: ARG001, ARG005 - rewards are called with keywords that they need not use

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.errors import RewardError
from grpo_cli.rewards.request import RewardRequest
from grpo_cli.rewards.score import PendingScores, Scorer, score
from grpo_cli.rewards.table import load_rewards
from grpo_cli.types import RolloutGroup, TrainerState
from tests.support.reward_groups import group, two_groups
from tests.support.reward_processes import left


def error_of(function: Callable[..., Any], groups: list[RolloutGroup] | None = None) -> RewardError:
    """The error that scoring with this function gives."""
    with pytest.raises(RewardError) as caught:
        score([("mine", function)], [1.0], groups or two_groups())
    return caught.value


def test_rewards_by_name_and_their_weighted_sum() -> None:
    groups = two_groups()
    score(load_rewards(["correctness", "int"]), [1.0, 3.0], groups)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert [rollout.rewards for rollout in rollouts] == [
        {"correctness": 2.0, "int": 0.5},
        {"correctness": 0.0, "int": 0.0},
        {"correctness": 0.0, "int": 0.5},
        {"correctness": 2.0, "int": 0.5},
    ]
    assert [rollout.reward for rollout in rollouts] == [3.5, 0.0, 1.5, 3.5]


def test_a_reward_is_called_once_with_trls_arguments() -> None:
    calls: list[dict[str, Any]] = []

    def spy(**arguments: Any) -> list[float]:
        calls.append(arguments)
        return [0.0] * 4

    score([("spy", spy)], [1.0], two_groups())
    first, second = [{"role": "user", "content": "1 + 1?"}], [{"role": "user", "content": "2 + 3?"}]
    texts = ["<answer>2</answer>", "two", "<answer>2</answer>", "<answer>5</answer>"]
    [call] = calls
    assert callable(call.pop("log_metric"))
    assert callable(call.pop("log_extra"))
    assert call == {
        "prompts": [first, first, second, second],
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "answer": ["2", "2", "5", "5"],
        "level": [1, 1, 2, 2],
        "source": ["a", "a", None, None],
        "completion_ids": [[1]] * 4,
        "prompt_ids": [[1, 2]] * 4,
        "environment_reward": [None] * 4,
        "trainer_state": TrainerState(0, 0, 0.0),
    }


def test_a_reward_cannot_change_the_prompts_of_the_run_or_of_the_next_reward() -> None:
    def vandal(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        prompts[0][0]["content"] = "changed"
        prompts[1].clear()
        completions.clear()
        return [1.0] * 4

    groups = two_groups()
    score([("vandal", vandal), *load_rewards(["correctness"])], [1.0, 1.0], groups)
    assert groups[0].example.messages == [{"role": "user", "content": "1 + 1?"}]
    assert groups[0].rollouts[0].rewards == {"vandal": 1.0, "correctness": 2.0}


def test_booleans_integers_and_scalars_of_other_libraries_are_numbers() -> None:
    class Scalar:
        def __float__(self) -> float:
            return 0.25

    groups = two_groups()
    score([("mine", lambda **columns: (True, 3, Scalar(), -0.5))], [2.0], groups)
    assert [rollout.reward for group in groups for rollout in group.rollouts] == [2.0, 6.0, 0.5, -1.0]
    assert type(groups[0].rollouts[0].rewards["mine"]) is float


def test_no_rollouts_need_no_rewards() -> None:
    score([("mine", lambda **columns: 1 / 0)], [1.0], [])


def test_a_reward_that_raises_is_named_with_its_line_and_the_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", ["/nowhere"])
    (tmp_path / "mine.py").write_text(
        "def brittle(prompts, completions, answer, **columns):\n"
        "    texts = [c[0]['content'] for c in completions]\n"
        "    return [1.0 / (text != 'two') for text in texts]\n"
    )
    [(name, function)] = load_rewards([f"{tmp_path}/mine.py:brittle"])
    with pytest.raises(RewardError) as caught:
        score([(name, function)], [1.0], two_groups())
    assert caught.value.message == (
        "Reward `brittle` raised ZeroDivisionError: float division by zero (mine.py, line 3)\n"
        "completion 2 of 4: 'two'"
    )
    assert caught.value.hint == (
        "it is called with lists named prompts, completions, answer, and the dataset's columns: level, source"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    trace = caught.value.trace.splitlines()
    assert trace[:2] == [
        "Traceback (most recent call last):",
        f'  File "{tmp_path}/mine.py", line 3, in brittle',
    ]
    assert trace[-1] == "ZeroDivisionError: float division by zero"
    assert "grpo_cli" not in caught.value.trace


def test_a_keyword_that_no_column_has_names_the_function_and_no_line_of_ours() -> None:
    def needs(completions: Any, hint: Any) -> list[float]:
        return [1.0 for _ in completions]

    error = error_of(needs)
    line = needs.__code__.co_firstlineno
    assert "missing 1 required positional argument: 'hint' (test_score.py, line" in error.message
    assert f"line {line})" in error.message
    assert error.trace == ""


def test_a_syntax_error_in_a_completion_is_not_taken_for_one_in_the_file() -> None:
    def evaluates(completions: Any, **columns: Any) -> list[float]:
        return [float(eval(completion[0]["content"])) for completion in completions]

    message = error_of(evaluates, [group("", "2", ["1 + 1", "1 +"])]).message
    line = evaluates.__code__.co_firstlineno + 1
    assert message == (
        f"Reward `mine` raised SyntaxError: invalid syntax (test_score.py, line {line})\n"
        "completion 2 of 2: '1 +'"
    )


def test_a_long_completion_is_shortened_in_the_middle() -> None:
    long = "a" * 5_000 + "\n" + "b" * 5_000
    shown = f"{'a' * 100} … {'b' * 100}"
    assert error_of(lambda **columns: ["no"], [group("", "", [long])]).message == (
        f"Reward `mine` returned 'no'\ncompletion 1 of 1: '{shown}'"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        ("1.0", "'1.0'"),
        ([1.0], "[1.0]"),
        (1j, "1j"),
        (10**400, "1" + "0" * 99),
        pytest.param(10**5000, "a value", id="5000 digits"),  # Python refuses to spell it
    ],
)
def test_a_value_that_is_no_finite_number_stops(value: Any, shown: str) -> None:
    error = error_of(lambda **columns: [0.0, 0.0, value, 0.0])
    assert error.message == f"Reward `mine` returned {shown}\ncompletion 3 of 4: '<answer>2</answer>'"
    assert error.hint == (
        "it must return one finite number for each completion, as `return [1.0 for text in completions]`, or "
        "None where it does not apply"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_nan_like_none_does_not_apply_and_is_counted(tmp_path: Path, workers: int) -> None:
    """Weights 2 and 3 of (1, nan), (nan, None), (None, 4), (0, -1): 2 · 1, nothing, 3 · 4, 3 · −1."""
    (tmp_path / "nans.py").write_text(
        "def a(**columns): return [1.0, float('nan'), None, 0]\n"
        "def b(**columns): return [float('nan'), None, 4, -1.0]\n"
    )
    specs, groups = [f"{tmp_path}/nans.py:a", f"{tmp_path}/nans.py:b"], two_groups()
    with Scorer(load_rewards(specs), [2.0, 3.0], 120.0, workers, specs) as scorer:
        pending = scorer.start(groups)
        pending.result()
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert [rollout.rewards for rollout in rollouts] == [
        {"a": 1.0, "b": None},
        {"a": None, "b": None},
        {"a": None, "b": 4.0},
        {"a": 0.0, "b": -1.0},
    ]
    assert [rollout.score for rollout in rollouts] == [2.0, None, 12.0, -3.0]
    assert pending.metrics == {"nan_fraction/a": [0.0, 1.0, 0.0, 0.0], "nan_fraction/b": [1.0, 0.0, 0.0, 0.0]}


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1.0], "1 value for 4 completions"),
        ([0.0] * 5, "5 values for 4 completions"),
        ([], "0 values for 4 completions"),
        (1.0, "a float, not a list of numbers"),
        (None, "a NoneType, not a list of numbers"),
        ("abcd", "a str, not a list of numbers"),
        ({1: 1}, "a dict, not a list of numbers"),
        ((value for value in [1.0]), "a generator, not a list of numbers"),
    ],
)
def test_anything_but_one_value_for_each_completion_stops(returned: Any, said: str) -> None:
    error = error_of(lambda **columns: returned)
    assert error.message == f"Reward `mine` returned {said}\ncompletion 1 of 4: '<answer>2</answer>'"


def three_groups() -> list[Any]:
    return [
        group("a", "1", ["x", "xx"], level=1, odd=True),
        group("b", "2", ["xxx", "bad"], level=2),
        group("c", "3", ["xxxxx", "xxxxxx"], level=3),
    ]


def test_rewards_come_to_their_own_rows_in_whatever_order_groups_end() -> None:
    asked: list[Any] = []

    async def judge(prompts: Any, completions: Any, level: Any, **columns: Any) -> list[float]:
        asked.append((prompts[0][0]["content"], len(completions), sorted(columns)))
        await asyncio.sleep(0.01 * level[0])
        return [100.0 * level[0] + len(completion[0]["content"]) for completion in completions]

    groups = three_groups()
    with Scorer([("judge", judge)], [1.0]) as scorer, scorer.overlapping(groups, 2) as pending:
        for place in (2, 0, 1):
            pending.begin(place)
    assert [item.reward for one in groups for item in one.rollouts] == [101, 102, 203, 203, 305, 306]
    assert [(first, count) for first, count, _ in asked] == [("c", 2), ("a", 2), ("b", 2)]
    assert all({"answer", "completion_ids", "trainer_state"} <= set(names) for _, _, names in asked)


def test_an_early_error_names_the_completion_of_the_batch() -> None:
    async def brittle(completions: Any, **columns: Any) -> list[float]:
        del columns
        return [1.0 / (completion[0]["content"] != "bad") for completion in completions]

    groups = three_groups()
    with Scorer([("brittle", brittle)], [1.0]) as scorer:
        with (
            pytest.raises(RewardError, match=r"completion 4 of 6: 'bad'"),
            scorer.overlapping(groups, 2) as all_,
        ):
            for place in (2, 1, 0):
                all_.begin(place)
        assert left() == []


def test_a_part_knows_its_place() -> None:
    groups = three_groups()
    pending = PendingScores(scorer=Scorer([], []), groups=groups, size=2)
    assert pending.request_of(1) == RewardRequest.of(groups).part(2, 4)
