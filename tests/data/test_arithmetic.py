"""The embedded task: right answers, splits that share nothing, the same test problems in every run."""

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.data.arithmetic import example, load, operand_range, problems
from grpo_cli.errors import DataError
from grpo_cli.types import Example


def test_an_example() -> None:
    question = "What is 247 + 538?"
    row = {"question": question, "answer": 785}
    assert example(247, 538) == Example(
        messages=[{"role": "user", "content": question}], answer="785", columns=row
    )


@pytest.mark.parametrize(
    ("difficulty", "low", "high"), [(1, 0, 9), (2, 10, 99), (3, 100, 999), (4, 1000, 9999)]
)
def test_the_difficulty_is_the_number_of_digits(difficulty: int, low: int, high: int) -> None:
    assert operand_range(difficulty) == (low, high)
    pairs = problems("train", difficulty, 200, seed=0)
    assert all(low <= number <= high for pair in pairs for number in pair)


@pytest.mark.parametrize("difficulty", [1, 2, 3])
def test_train_and_test_never_share_a_problem(difficulty: int) -> None:
    def unordered(split: str, seed: int) -> set[frozenset[int]]:
        return {frozenset(pair) for pair in problems(split, difficulty, 3_000, seed)}

    train = unordered("train", 0) | unordered("train", 1)
    test = unordered("test", 0) | unordered("test", 1)
    assert train and test
    assert not train & test


def test_one_digit_sums_are_all_there_once() -> None:
    pairs = problems("train", 1, 1_000, 0) + problems("test", 1, 1_000, 0)
    assert sorted(pairs) == [(a, b) for a in range(10) for b in range(10)]


def test_the_seed_orders_training_and_leaves_the_test_alone() -> None:
    first, second = Config(dataset="arithmetic", seed=0), Config(dataset="arithmetic", seed=1)
    assert load(first, "train") == load(first, "train") != load(second, "train")
    assert load(first, "test") == load(second, "test")
    assert (len(load(first, "train")), len(load(first, "test"))) == (10_000, 500)


@pytest.mark.parametrize("difficulty", ["0", "5", "hard"])
def test_an_unknown_difficulty_is_refused(difficulty: str) -> None:
    with pytest.raises(DataError) as caught:
        load(Config(dataset="arithmetic", dataset_config=difficulty), "train")
    assert caught.value.message == f"The dataset `arithmetic` has no difficulty '{difficulty}'"
    assert caught.value.hint == 'dataset_config is the number of digits, "1" to "4"'
