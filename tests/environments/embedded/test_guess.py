"""The rules of the number guessing game."""

from collections import Counter

import pytest

from grpo_cli.environments.embedded.guess import GUESSES, LARGEST, GuessTask, examples, last_number
from grpo_cli.environments.protocol import Turn


def play(number: int, *turns: str) -> tuple[list[str | None], float]:
    """The answers to the turns, None at the end of the game, and the reward."""
    game = GuessTask()
    assert game.reset({"answer": number}) is None
    said: list[str | None] = []
    for place, text in enumerate(turns):
        reply = game.respond(Turn(number=place, token_ids=[], text=text))
        said.append(reply.messages[0]["content"] if reply else None)
    return said, game.get_reward()


@pytest.mark.parametrize(
    ("number", "turns", "said", "reward"),
    [
        (4, ["5", "3", "4"], ["lower", "higher", None], 1.0),
        (4, ["4"], [None], 1.0),
        (4, ["1", "2", "3", "4"], ["higher", "higher", "higher", None], 1.0),
        (4, ["1", "2", "3", "5"], ["higher", "higher", "higher", None], 0.0),
        (4, ["no idea", "99", "<answer>=, 4</answer>"], ["what?", "lower", None], 1.0),
        (4, ["4, or <answer>5</answer>", "<answer></answer> 4"], ["lower", "what?"], 0.0),
    ],
)
def test_games(number: int, turns: list[str], said: list[str | None], reward: float) -> None:
    assert play(number, *turns) == (said, reward)


@pytest.mark.parametrize("number", range(1, LARGEST + 1))
def test_halving_the_range_always_finds_the_number(number: int) -> None:
    low, high, game = 1, LARGEST, GuessTask()
    game.reset({"answer": number})
    for place in range(GUESSES):
        middle = (low + high) // 2
        reply = game.respond(Turn(number=place, token_ids=[], text=f"<answer>{middle}</answer>"))
        if reply is None:
            break
        low, high = (middle + 1, high) if reply.messages[0]["content"] == "higher" else (low, middle - 1)
    assert game.get_reward() == 1.0


@pytest.mark.parametrize(
    ("text", "number"),
    [("1 or 2", 2), ("<answer>3</answer> 4", 3), ("", None), ("9" * 10_000, 999_999_999), ("٣", None)],
)
def test_last_number(text: str, number: int | None) -> None:
    assert last_number(text) == number


def test_examples_are_the_seeds_own_and_even() -> None:
    made = examples("train", 60, 0)
    assert {*Counter(one.answer for one in made).values()} == {12}
    assert made == examples("train", 60, 0) != examples("train", 60, 1)
    assert made != examples("test", 60, 0)
    assert [one.columns["answer"] for one in made] == [int(one.answer) for one in made]
