"""Search over the embedded map: what a search gives, and what is worth a reward."""

from collections import Counter
from pathlib import Path

import pytest

from grpo_cli.data import arithmetic
from grpo_cli.environments.embedded.search import HOUSES, SearchTask, examples, look_up
from grpo_cli.models import tiny
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer

TOKENIZER = NanochatTokenizer.load(Path(tiny.__file__).parent)


@pytest.mark.parametrize(
    ("key", "houses"),
    [
        ("0+0", "10"),
        ("7+8", "13"),
        ("7 + 8", "13"),
        ("7+9", "17"),
        ("8+1", None),  # no such row
        ("7+10", None),
        ("7+8+1", None),
        ("7*8", None),
        ("", None),
    ],
)
def test_look_up(key: str, houses: str | None) -> None:
    assert look_up(key) == houses


def test_no_fact_is_the_sum_of_its_row_and_column() -> None:
    assert len(HOUSES) == 80
    assert {*HOUSES.values()} == {*range(10, 19)}
    assert all(houses != row + column for (row, column), houses in HOUSES.items())


@pytest.mark.parametrize(
    ("written", "reward", "calls", "failures"),
    [
        ("<reasoning>7+8=|</reasoning><answer>13</answer>", 1.0, 1, 0),
        ("<reasoning>7+8=|</reasoning><answer>15</answer>", 0.0, 1, 0),
        ("<reasoning>easy</reasoning><answer>13</answer>", 0.0, 0, 0),  # known by heart
        ("<reasoning>7+8+1=|</reasoning><answer>13</answer>", 0.0, 0, 1),
        ("<reasoning>3+8=|, 7+8=|</reasoning><answer>13</answer>", 1.0, 2, 0),
    ],
)
def test_only_what_a_search_found_is_rewarded(written: str, reward: float, calls: int, failures: int) -> None:
    task = SearchTask(TOKENIZER)
    task.reset({"answer": 13})
    for part in written.split("|"):
        forced = [task.read(token) for token in TOKENIZER.encode(part)][-1]
        assert [task.read(token) for token in forced] == [[]] * len(forced)
    assert (task.get_reward(), task.calls, task.failures) == (reward, calls, failures)


def test_examples_are_the_seeds_and_the_splits_own() -> None:
    train, test = examples("train", 76, 0), examples("test", 42, 0)
    assert train == examples("train", 76, 0) != examples("train", 76, 1)
    squares = [tuple(map(int, one.messages[0]["content"][8:-1].split(" + "))) for one in train]
    assert {*Counter(squares).values()} == {2}
    assert [one.answer for one in train] == [str(HOUSES[square]) for square in squares]  # type: ignore[index]
    assert not any(arithmetic.is_test(*square) for square in squares)
    assert len({one.columns["question"] for one in test}) == 42
