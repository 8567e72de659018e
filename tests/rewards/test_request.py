"""The arguments of a reward: answers that a column holds as numbers or as whole solutions."""

import inspect
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.data.rows import Row, examples_from
from grpo_cli.engine.guards.nothing_learned import Teaching
from grpo_cli.errors import RewardError
from grpo_cli.rewards.call import call
from grpo_cli.rewards.notes import Notes
from grpo_cli.rewards.request import RewardRequest
from grpo_cli.types import Rollout, RolloutGroup, StopReason

SOLUTION = "2 + 3 = <<2+3=5>>5\n#### 5"


def groups(column: str, value: Any) -> list[RolloutGroup]:
    config = Config(dataset="sums.jsonl", answer_column=column)
    row = Row({"question": "2 + 3 = ?", column: value}, "line", 1, "sums.jsonl")
    rollouts = [
        Rollout(
            token_ids=[5],
            logprobs=[],
            entropies=[],
            stop_reason=StopReason.EOS,
            text=text,
            rewards={"mine": 0.0},
        )
        for text in ("5", "6")
    ]
    return [RolloutGroup(examples_from([row], config, "train")[0], [1], rollouts)]


@pytest.mark.parametrize(
    ("value", "text"), [(5, "5"), (0.5, "0.5"), ([5], "5"), (True, "True"), (SOLUTION, "5"), ("5", "5")]
)
@pytest.mark.parametrize("column", ["solution", "ground_truth", "answer"])
def test_the_raw_value_has_the_columns_own_name_and_answer_is_its_text(
    column: str, value: Any, text: str
) -> None:
    given = RewardRequest.of(groups(column, value)).arguments(lambda **_: [], Notes(2))
    assert given["answer"] == [text] * 2
    assert given["raw_answer" if column == "answer" else column] == [value] * 2


def adds_one(completions, answer, **kwargs):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return [float(a + 1) for a in answer]


def splits(completions, answer, **kwargs):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return [float(a.split("####")[1]) for a in answer]


@pytest.mark.parametrize(("function", "value"), [(adds_one, 5), (splits, SOLUTION)])
def test_a_reward_that_takes_answer_for_the_raw_column_is_told_the_name_of_that(
    function: Any, value: Any
) -> None:
    with pytest.raises(RewardError) as caught:
        call("mine", function, RewardRequest.of(groups("answer", value)))
    assert "`answer` is the normalized text, '5'; `raw_answer` is what the column holds" in caught.value.hint
    cured = inspect.getsource(function).replace("answer", "raw_answer")
    names: dict[str, Any] = {}
    exec(cured, names)
    assert call("mine", names[function.__name__], RewardRequest.of(groups("answer", value))).values == (
        [6.0, 6.0] if function is adds_one else [5.0, 5.0]
    )


def test_a_constant_reward_of_ones_own_is_told_what_answer_is() -> None:
    for value, is_said in ((5, True), ("5", False)):
        teaching = Teaching(config=Config(), own={"mine"})
        teaching.take({"reward_mean": 0.0}, groups("answer", value), taught=False)
        nothing = teaching.explain()
        assert nothing and "reward `mine` is constant: 0" in nothing.seen
        assert ("`raw_answer` is what the column holds" in nothing.seen) is is_said
