"""The sums with a calculator: calls in the middle of a line, and what is worth a reward."""

from pathlib import Path

import pytest

from grpo_cli.data import arithmetic
from grpo_cli.environments.embedded.calculator import CalculatorTask, examples
from grpo_cli.models import tiny
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer

TOKENIZER = NanochatTokenizer.load(Path(tiny.__file__).parent)


def play(written: str, answer: int = 785) -> tuple[str, CalculatorTask]:
    """The whole text when the model writes `written`, what is forced between guillemets, and the rollout."""
    task = CalculatorTask(TOKENIZER)
    assert task.reset({"answer": answer, "question": "?"}) is None
    text = ""
    for token in TOKENIZER.encode(written):
        text += TOKENIZER.decode([token])
        if forced := task.read(token):
            assert [task.read(one) for one in forced] == [[]] * len(forced)
            text += f"«{TOKENIZER.decode(forced)}»"
    return text, task


@pytest.mark.parametrize(
    ("written", "whole", "calls", "failures"),
    [
        ("7+8=, 4+3+1=, 2+5=", "7+8=«15», 4+3+1=«8», 2+5=«7»", 3, 0),
        ("so 12 * 34 = yes", "so 12 * 34 =« 408» yes", 1, 0),
        ("12*34= ", "12*34=«408» ", 1, 0),
        ("(2+3)*4=", "(2+3)*4=«20»", 1, 0),
        ("1/4=", "1/4=«0.25»", 1, 0),
        ("- 7 + 8 =", "- 7 + 8 =« 15»", 1, 0),  # a list's dash is no sign
        ("5=", "5=", 0, 0),  # no operation
        ("x+1=", "x+1=", 0, 0),
        ("=", "=", 0, 0),
        ("7+8==", "7+8=«15»=", 1, 0),
        ("7+=", "7+=", 0, 1),
        ("1/0=", "1/0=", 0, 1),
        ("2**9=", "2**9=", 0, 1),
        ("7+8", "7+8", 0, 0),
    ],
)
def test_calls(written: str, whole: str, calls: int, failures: int) -> None:
    text, task = play(written)
    assert (text, task.calls, task.failures) == (whole, calls, failures)


@pytest.mark.parametrize(
    ("written", "reward"),
    [
        ("<reasoning>7+8=, 4+3+1=, 2+5=</reasoning><answer>785</answer>", 1.0),
        ("<reasoning>easy</reasoning><answer>785</answer>", 0.0),  # right, but without a call
        ("<reasoning>7+8=</reasoning><answer>779</answer>", 0.0),
        ("<reasoning>7+=</reasoning><answer>785</answer>", 0.0),  # the call had no result
        ("247 + 538 =", 0.0),  # no `<answer>`
    ],
)
def test_only_right_answers_after_a_call_are_rewarded(written: str, reward: float) -> None:
    assert play(written)[1].get_reward() == reward


def test_examples_are_the_seeds_and_the_splits_own() -> None:
    train, test = examples("train", 300, 3), examples("test", 100, 3)
    assert [one.columns["question"] for one in train[:2]] == [
        "What is 208 + 839?",
        "What is 151 + 721?",
    ]
    assert train == examples("train", 300, 3) != examples("train", 300, 4)
    for split, made in (("train", train), ("test", test)):
        for one in made:
            a, b = (int(part) for part in one.messages[0]["content"][8:-1].split(" + "))
            assert 100 <= a <= 799 and 100 <= b <= 999
            assert arithmetic.is_test(a, b) is (split == "test")
            assert one.answer == str(a + b) == str(one.columns["answer"])
