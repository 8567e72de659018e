"""Encoding of examples to prompt ids, on first use. Prompts that are too long are skipped, never truncated.

    prompts = Prompts(examples, policy.tokenizer, config)
    batch, left_out = prompts.take(position=40, count=8)      # the stream's next 8 that fit
    prompts.count(2000)                                       # 2000, or fewer if fewer fit

The stream is DataOrder's shuffle of all examples, so it is known before any of them is encoded: a short run
over 100,000 rows encodes only a few. Positions include skipped examples, so a resumed run continues with the
same prompts.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

from grpo_cli.config.schema import Config
from grpo_cli.engine.rollout.prompt_order import DataOrder, shuffled
from grpo_cli.environments.tooling import NO_TOOLS, Tooling
from grpo_cli.errors import DataError, ModelError
from grpo_cli.models.load import Policy
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import Example

Told = Callable[[int, int], None]  # progress: (encoded, total), called once a second


@dataclass(frozen=True)
class Prompt:
    """An example and its prompt's token ids."""

    example: Example
    ids: list[int]


def encode(example: Example, tokenizer: Tokenizer, config: Config, tooling: Tooling = NO_TOOLS) -> Prompt:
    """Encode an example. Raises ModelError, which names the row, if the chat template rejects it.

    `tooling`: the tools that the prompt shows, and what an environment adds to it.
    """
    example = tooling.begin(example)
    if config.prompt_format == "text":
        text = example.messages[-1]["content"]
        return Prompt(example, tokenizer.encode_text(text, config.completion_prefix))
    try:
        schemas = tooling.schemas_for(example)
        tools = {"tools": schemas} if schemas else {}
        return Prompt(example, tokenizer.encode_prompt(example.messages, config.completion_prefix, **tools))
    except ModelError as error:
        if example.place:
            error.message += f" ({example.place})"
        raise


def nobody(encoded: int, total: int) -> None:
    """No-op progress callback."""


class Prompts(Sequence[Prompt]):
    """The training prompts, by index in the dataset and in the shuffled order of a run."""

    def __init__(
        self,
        examples: list[Example],
        tokenizer: Tokenizer,
        config: Config,
        told: Told = nobody,
        tooling: Tooling = NO_TOOLS,
    ) -> None:
        """Encodes one example per sequence of roles; ModelError if the chat template rejects one."""
        self.examples, self.tokenizer, self.config, self.told = examples, tokenizer, config, told
        self.tooling = tooling
        self.order = DataOrder(len(examples), config.seed)
        self.encoded: dict[int, Prompt | None] = {}  # by place; None: too long
        self._counts: dict[int, int] = {}
        self._shortest = 0
        first: dict[tuple[str, ...], int] = {}
        for place, example in enumerate(examples):
            first.setdefault(roles(example), place)
        for place in first.values():
            self.prompt(place)

    @overload
    def __getitem__(self, place: int) -> Prompt: ...
    @overload
    def __getitem__(self, place: slice) -> list[Prompt]: ...
    def __getitem__(self, place: int | slice) -> Prompt | list[Prompt]:
        """The prompt of an example, of any length."""
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        return self.prompt(place) or self.encode(place)

    def __len__(self) -> int:
        """Number of examples, including those that are too long."""
        return len(self.examples)

    def encode(self, place: int) -> Prompt:
        """Encode one example, of any length."""
        return encode(self.examples[place], self.tokenizer, self.config, self.tooling)

    def prompt(self, place: int) -> Prompt | None:
        """The prompt of an example; None if it is longer than max_prompt_length."""
        if place not in self.encoded:
            prompt = self.encode(place)
            length = len(prompt.ids)
            self._shortest = min(self._shortest or length, length)
            self.encoded[place] = prompt if length <= self.config.max_prompt_length else None
        return self.encoded[place]

    def fitting(self) -> "Prompts":
        """Only the prompts that fit, with their own shuffled order: the stream of earlier versions."""
        places = [place for place in range(len(self)) if self.prompt(place) is not None]
        return Prompts(
            [self.examples[place] for place in places], self.tokenizer, self.config, self.told, self.tooling
        )

    @property
    def left_out(self) -> int:
        """Number of encoded prompts that are too long."""
        return sum(prompt is None for prompt in self.encoded.values())

    @property
    def ids(self) -> list[list[int]]:
        """Token ids of the encoded prompts that fit."""
        return [prompt.ids for prompt in self.encoded.values() if prompt is not None]

    def take(self, position: int, count: int) -> tuple[list[Prompt], int]:
        """The next `count` prompts of the stream that fit, and the number skipped as too long.

        Raises DataError if no prompt of the dataset fits.
        """
        self.count(1)
        found: list[Prompt] = []
        left_out = 0
        while len(found) < count:
            [place] = self.order.take(position + len(found) + left_out, 1)
            prompt = self.prompt(place)
            if prompt is None:
                left_out += 1
            else:
                found.append(prompt)
        return found, left_out

    def count(self, wanted: int = 0) -> int:
        """Number of prompts that fit. Counting stops at `wanted` (0 = count all).

        Raises DataError if no prompt fits.
        """
        if wanted not in self._counts:
            self._counts[wanted] = self._count(wanted)
        if not self._counts[wanted]:
            raise DataError(
                f"No prompt has {self.config.max_prompt_length} tokens or fewer; "
                f"the shortest has {self._shortest}",
                f"max_prompt_length = {self._shortest * 2}",
                trouble="dataset",
            )
        return self._counts[wanted]

    def _count(self, wanted: int) -> int:
        """Count in the order of the first epoch, and report progress every second."""
        fitting, due = 0, time.monotonic() + 1.0
        for place in shuffled(len(self), self.config.seed, 0):
            fitting += self.prompt(place) is not None
            if wanted and fitting >= wanted:
                break
            if time.monotonic() > due:
                self.told(len(self.encoded), wanted or len(self))
                due = time.monotonic() + 1.0
        return fitting

    def longest(self) -> int:
        """Tokens of the longest prompt; estimated from the longest text if not all are encoded."""
        if len(self.encoded) < len(self) and self.prompt(self._longest_text) is None:
            return self.config.max_prompt_length
        return max(map(len, self.ids))

    @functools.cached_property
    def _longest_text(self) -> int:
        """The place of the example with the most characters."""
        return max(range(len(self)), key=lambda place: characters(self.examples[place]))


def roles(example: Example) -> tuple[str, ...]:
    """The roles of a conversation's messages, which decide if a chat template accepts it."""
    return tuple(message["role"] for message in example.messages)


def characters(example: Example) -> int:
    """Total characters of a conversation's messages."""
    return sum(len(message["content"]) for message in example.messages)


def evaluation_prompts(
    examples: list[Example], policy: Policy, config: Config, tooling: Tooling = NO_TOOLS
) -> list[Prompt]:
    """The first eval_samples examples as prompts of any length: the same items for every model."""
    chosen = examples[: config.eval_samples or None]
    return [encode(example, policy.tokenizer, config, tooling) for example in chosen]
