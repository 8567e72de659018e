"""Examples to prompt ids. A prompt that is too long is left out and counted, never cut."""

from dataclasses import dataclass

from grpo_cli.config.schema import Config
from grpo_cli.errors import DataError
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import Example


@dataclass(frozen=True)
class Prompt:
    """An example and the ids that ask it."""

    example: Example
    ids: list[int]


def encode_prompts(examples: list[Example], tokenizer: Tokenizer, config: Config) -> tuple[list[Prompt], int]:
    """Prompts of at most max_prompt_length tokens, and how many were longer.

    Raises DataError where none is left.
    """
    prompts = [
        Prompt(example, tokenizer.encode_prompt(example.messages, config.completion_prefix))
        for example in examples
    ]
    kept = [prompt for prompt in prompts if len(prompt.ids) <= config.max_prompt_length]
    if not kept:
        shortest = min((len(prompt.ids) for prompt in prompts), default=0)
        raise DataError(
            f"No prompt has {config.max_prompt_length} tokens or fewer; the shortest has {shortest}",
            f"max_prompt_length = {shortest * 2}",
            trouble="dataset",
        )
    return kept, len(prompts) - len(kept)
