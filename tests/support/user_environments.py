"""Two environments as users write them, in TRL's shape."""

from typing import Any


class Wordle:
    """A game with two tools, in TRL's shape."""

    letters = 5

    def __init__(self, lives: int = 6) -> None:
        self.lives = lives

    def reset(self, word: str, level: int = 1) -> str:
        self.word = word
        return f"{len(word)} letters, level {level}"

    def guess(self, word: str) -> str:
        """Guess a word.

        Args:
            word: the guess
        """
        return "right" if word == self.word else "wrong"

    async def hint(self) -> str:
        """The first letter."""
        return self.word[0]

    def get_reward(self) -> float:
        return 0.5

    def _count(self) -> int:
        return self.lives

    @property
    def left(self) -> int:
        return self.lives


class Talk:
    """A task without tools: two turns."""

    def reset(self, **columns: Any) -> None:
        self.columns = columns

    async def respond(self, text: str) -> str | None:
        return None if text == "bye" else f"{text}?"

    async def get_reward(self) -> float | None:
        return 2
