"""The embedded task: generated sums of whole numbers, which need no network and no files.

    What is 247 + 538?   →   785

`dataset_config` is the difficulty: the number of digits of both numbers. A hash of the
unordered pair assigns each problem to train or test, so the two splits
never share one, whatever the seed, and 247 + 538 and 538 + 247 are always in the same split.
"""

import functools
import hashlib
import random

from grpo_cli.config.schema import Config
from grpo_cli.data.conversation import message
from grpo_cli.data.rows import with_system
from grpo_cli.errors import DataError
from grpo_cli.types import Example

DEFAULT_DIFFICULTY = 3
TRAIN_PROBLEMS = 10_000
TEST_PROBLEMS = 500
TEST_SEED = 20_000  # the test problems are the same in every run


def operand_range(difficulty: int) -> tuple[int, int]:
    """Smallest and largest number with `difficulty` digits: (0, 9), (10, 99), (100, 999), …"""
    return (0 if difficulty == 1 else 10 ** (difficulty - 1)), 10**difficulty - 1


def is_test(a: int, b: int) -> bool:
    """True if a + b belongs to the test split: half of the one-digit sums, a tenth of the others."""
    low, high = min(a, b), max(a, b)
    bucket = int.from_bytes(hashlib.sha256(f"{low}+{high}".encode()).digest()[:4], "big") % 10
    return bucket < (5 if high < 10 else 1)


@functools.cache
def problems(split: str, difficulty: int, count: int, seed: int) -> tuple[tuple[int, int], ...]:
    """Up to `count` distinct problems (a, b) of a split, in an order given by the seed."""
    low, high = operand_range(difficulty)
    wants_test = split == "test"
    rng = random.Random(f"{seed}-{split}-{difficulty}")
    if difficulty <= 2:  # few enough to list them all
        pairs = [(a, b) for a in range(low, high + 1) for b in range(low, high + 1)]
        pairs = [pair for pair in pairs if is_test(*pair) == wants_test]
        rng.shuffle(pairs)
        return tuple(pairs[:count])
    found: dict[tuple[int, int], None] = {}  # an ordered set
    while len(found) < count:
        pair = (rng.randint(low, high), rng.randint(low, high))
        if is_test(*pair) == wants_test:
            found[pair] = None
    return tuple(found)


def load(config: Config, split: str, limit: int | None = None) -> list[Example]:
    """The first `limit` examples of `train` or `test`; None: all of them.

    Raises DataError for another split or a difficulty that is not 1 to 4.
    """
    if split not in ("train", "test"):
        raise DataError(
            f"The dataset `arithmetic` has no split {split!r}", "its splits are `train` and `test`"
        )
    difficulty = config.dataset_config or str(DEFAULT_DIFFICULTY)
    if difficulty not in ("1", "2", "3", "4"):
        raise DataError(
            f"The dataset `arithmetic` has no difficulty {difficulty!r}",
            'dataset_config is the number of digits, "1" to "4"',
        )
    test = split == "test"
    pairs = problems(
        split,
        int(difficulty),
        TEST_PROBLEMS if test else TRAIN_PROBLEMS,
        TEST_SEED if test else config.seed,
    )
    return [example(a, b, config.system_prompt) for a, b in pairs[:limit]]


def example(a: int, b: int, system_prompt: str = "") -> Example:
    """The problem a + b as a conversation of one user message, after the system prompt if there is one."""
    question = f"What is {a} + {b}?"
    columns = {"question": question, "answer": a + b}
    return Example(
        messages=with_system([message("user", question)], system_prompt),
        answer=str(a + b),
        columns=columns,
        prompt_text=question,
    )
