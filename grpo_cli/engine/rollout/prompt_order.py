"""The order of training examples: a new shuffle in every epoch, from seed and position alone.

The stream of examples is a pure function of (seed, position), so a resumed run needs only the number of
prompts used so far.
"""

import functools
import random


class DataOrder:
    """An endless stream of example indices; each epoch contains every example once."""

    def __init__(self, examples: int, seed: int) -> None:
        self.examples = examples
        self.seed = seed

    def take(self, start: int, count: int) -> list[int]:
        """Indices at stream positions start … start + count − 1."""
        return [self._at(position) for position in range(start, start + count)]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self.examples)
        return shuffled(self.examples, self.seed, epoch)[place]


@functools.lru_cache(maxsize=2)
def shuffled(examples: int, seed: int, epoch: int) -> list[int]:
    """The shuffled example indices of one epoch."""
    order = list(range(examples))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    return order
