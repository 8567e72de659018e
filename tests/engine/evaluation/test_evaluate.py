"""Evaluation: what counts as right, and the scores by hand."""

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.evaluation.evaluate import Evaluation, completion_lines, evaluate, measure_by_reward
from grpo_cli.engine.evaluation.scorecard import compare, distribution, scorecard
from grpo_cli.engine.rollout.prompts import Prompt
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.rewards.answers import is_right
from grpo_cli.rewards.table import load_rewards
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason
from tests.support.random_models import nanochat_policy


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("<reasoning>3+4</reasoning><answer>7</answer>", "7", True),
        ("<answer>7.0</answer>", "7", True),
        ("<answer>$1,000</answer>", "1000", True),
        ("<answer>8</answer> no, 7", "7", False),
        ("The sum of 3 and 4 is 7.", "7", True),
        ("7 is not 8", "7", False),
        ("<answer>7", "8", False),
        ("none", "7", False),
    ],
)
def test_what_is_right(text: str, answer: str, right: bool) -> None:
    assert is_right(text, answer) is right


def item(answer: str, *texts: str) -> RolloutGroup:
    example = Example(messages=[{"role": "user", "content": "?"}], answer=answer)
    rollouts = [
        Rollout(
            token_ids=[1] * len(text),
            logprobs=[],
            entropies=[],
            stop_reason=StopReason.EOS,
            text=text,
            rewards={"r": float(len(text))},
        )
        for text in texts
    ]
    return RolloutGroup(example, [1], rollouts)


def test_scores_by_hand() -> None:
    # 3 items of 2 completions: 2, 1 and 0 right
    evaluation = Evaluation([item("1", "1", "1"), item("2", "2", "9"), item("3", "9", "9")], 2.0)
    card = scorecard(evaluation)
    assert card["accuracy"] == pytest.approx(0.5)
    assert (card["correct"], card["completions"], card["samples"]) == (3, 6, 3)
    assert card["pass_at_k"] == {"1": pytest.approx(0.5), "2": pytest.approx(2 / 3)}
    assert card["rewards"]["r"]["mean"] == 1.0
    assert card["rewards"]["r"]["values"] == [1.0]
    assert card["rewards"]["r"]["counts"] == [6]
    assert card["format"] == 0.0
    assert card["length_mean"] == 1.0


def test_rewards_of_many_values_are_counted_in_intervals() -> None:
    assert distribution([0.0, 2.0, 2.0]) == {"values": [0.0, 2.0], "counts": [1, 2]}
    many = distribution([float(n) for n in range(16)])
    assert many["counts"] == [2] * 8
    assert (many["edges"][0], many["edges"][-1]) == (0.0, 15.0)


def test_comparison_by_hand() -> None:
    before = Evaluation([item("1", "0")] * 9 + [item("1", "1")], 1.0)
    after = Evaluation([item("1", "1")] * 9 + [item("1", "0")], 1.0)
    result = compare(before, after)
    assert result["accuracy_difference"] == pytest.approx(0.8)
    assert (result["only_model_right"], result["only_compared_right"]) == (9, 1)
    assert result["p"] == pytest.approx(0.021484375)
    assert result["verdict"] == "better"
    assert compare(after, before)["verdict"] == "worse"
    assert compare(before, before)["verdict"] == "no significant difference"


def test_items_come_back_in_their_own_order_whatever_the_batch() -> None:
    policy = nanochat_policy()
    texts = ["a rather long question", "short", "of middle length", "x"]
    prompts = [
        Prompt(Example(messages=[{"role": "user", "content": text}], answer=str(n)), list(text.encode()))
        for n, text in enumerate(texts)
    ]
    whole = evaluate(policy, prompts, Sampling(max_new_tokens=8, temperature=0.0), rows=100)
    parts = evaluate(policy, prompts, Sampling(max_new_tokens=8, temperature=0.0), rows=2)
    assert [group.example.answer for group in whole.groups] == ["0", "1", "2", "3"]
    assert [r.token_ids for r in whole.rollouts] == [r.token_ids for r in parts.rollouts]
    assert [line["item"] for line in completion_lines(whole)] == [0, 1, 2, 3]


def test_a_chosen_reward_says_what_is_right() -> None:
    evaluation = Evaluation([item("18", "12", "18"), item("18", "x <answer>18</answer>", "y")], 1.0)
    config = Config(reward_functions=["int", "correctness"], eval_reward="correctness")
    measure_by_reward(evaluation, config, load_rewards(config.reward_functions))
    assert evaluation.correct == [[False, False], [True, False]]  # correctness wants the tag
    assert evaluation.line(3)["eval_accuracy"] == 0.25
    plain = Evaluation([item("18", "12"), item("18", "so 18")], 1.0)
    measure_by_reward(plain, Config(), load_rewards(["int"]))
    assert plain.correct == [[False], [True]]
    assert plain.line(0)["eval_right"] == "01"


def test_a_reward_that_does_not_apply_is_not_right() -> None:
    evaluation = Evaluation([item("1", "1")], 1.0, measure="r")
    evaluation.rollouts[0].rewards = {"r": None}  # type: ignore[dict-item]
    assert evaluation.correct == [[False]]
    assert evaluation.line(0)["eval_unscored_fraction"] == 1.0
    evaluation.rollouts[0].rewards = {"r": 0.0}
    assert "eval_unscored_fraction" not in evaluation.line(0)
