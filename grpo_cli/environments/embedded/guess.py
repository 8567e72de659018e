"""A number guessing game of several turns: find a number from 1 to 5 in at most four guesses.

    What is it?              <reasoning>easy</reasoning><answer>4</answer>
    «lower»                  <reasoning>easy</reasoning><answer>2</answer>
    «higher»                 <reasoning>easy</reasoning><answer>3</answer>         found: the reward is 1

The guess is the last number of a turn's answer, or of the whole turn without tags. A turn without a number is
a lost guess. Four guesses without an eye on the hints find four numbers in five; halving the range finds each
in three. From the rewards alone the embedded model `tiny` comes from 1 % to at least those 80 %; two of four
seeds learned to use the hints and passed 95 %.

For a model that reads English, put the rules into `system_prompt`.
"""

import random
import re
from typing import Any

from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.rewards.answers import extract_answer
from grpo_cli.types import Example

LARGEST, GUESSES = 5, 4
QUESTION = "What is it?"
NO_GUESS = "what?"
NUMBER = re.compile(r"[0-9]+")


class GuessTask(Environment):
    """One game: the number to find and the guesses so far."""

    def __init__(self) -> None:
        self.number = 0
        self.guesses: list[int | None] = []  # None: a turn without a number

    def reset(self, columns: dict[str, Any]) -> str | None:
        """Begin the game of the number in the column `answer`."""
        self.number = int(columns["answer"])
        return None

    def respond(self, turn: Turn) -> Reply | None:
        """Say which way the number lies; the game ends when it is found, or after the last guess."""
        guess = last_number(turn.text)
        self.guesses.append(guess)
        if guess == self.number or len(self.guesses) == GUESSES:
            return None
        if guess is None:
            return Reply.of_user(NO_GUESS)
        return Reply.of_user("higher" if guess < self.number else "lower")

    def get_reward(self) -> float:
        """1 if the number was found, else 0."""
        return float(self.number in self.guesses)


def last_number(text: str) -> int | None:
    """The last number of a text's answer; None if there is none."""
    answer = extract_answer(text)
    numbers = NUMBER.findall(text if answer is None else answer)
    return int(numbers[-1][:9]) if numbers else None  # a longer one is as wrong, and slow to read


def examples(split: str, count: int, seed: int) -> list[Example]:
    """Games about every number equally often, give or take one; the splits differ only in their order."""
    rng = random.Random(f"{seed}-guess-{split}")
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += rng.sample(range(1, LARGEST + 1), LARGEST)
    return [example(number) for number in drawn[:count]]


def example(number: int) -> Example:
    """The game of one number."""
    return Example(
        messages=[{"role": "user", "content": QUESTION}],
        answer=str(number),
        columns={"question": QUESTION, "answer": number},
        prompt_text=QUESTION,
    )
