"""Two-digit products for a model that reads English, with a calculator in the middle of a line.

    grpo train --config tests/bench/products.toml --set model_name=DIR

    What is 27 * 82?
    27 * 82 =« 2214».                          between «» stands what the environment wrote

The reward is 1 if the completion called the calculator and its last number is the product, else 0.
"""

import random
import re
from typing import Any

from grpo_cli.environments.embedded.inline import InlineTask
from grpo_cli.environments.expression import compute

NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


class Products(InlineTask):
    """One question. A pair with an even sum is asked in training, one with an odd sum in evaluation."""

    result = staticmethod(compute)

    def reset(self, columns: dict[str, Any]) -> str:
        """The question of an episode."""
        rng = random.Random(f"{columns['seed']}-{columns['split']}-{columns['episode']}")
        first, second = rng.randint(10, 98), rng.randint(10, 98)
        second += (first + second + (columns["split"] != "train")) % 2
        self.answer = str(first * second)
        return f"What is {first} * {second}?"

    def get_reward(self) -> float:
        """1 for the product as the last number after a call, else 0."""
        numbers = NUMBER.findall(self.text)
        return float(self.calls > 0 and bool(numbers) and numbers[-1] == self.answer)
