"""Decoding of a completion's text, together with the completion_prefix before it.

    CompletionText(tokenizer, "The answer is").of([ids of " 42"])   →  "The answer is 42"

Decoded alone, the first word would lose its leading space with tokenizers that drop it (SentencePiece).
Control tokens (end of turn, the chat template's role markers, padding) are omitted. All other sampled tokens
are kept, also special ones, since `<answer>` may be one.
"""

from dataclasses import dataclass
from functools import cached_property

from grpo_cli.models.tokenizer import Tokenizer

STOP_TAIL = 16  # newest tokens searched for a stop string, in addition to its length in characters


@dataclass(frozen=True)
class CompletionText:
    """Decoder for completions whose prompts end with `prefix`, which counts as their beginning."""

    tokenizer: Tokenizer
    prefix: str = ""

    @cached_property
    def _prefix_ids(self) -> list[int]:
        return self.tokenizer.encode(self.prefix) if self.prefix else []

    def of(self, ids: list[int], markers: frozenset[int] = frozenset()) -> str:
        """The text of prefix and completion. `markers`: control tokens that stay."""
        return self.prefix + self.after_prefix(ids, markers)

    def after_prefix(self, ids: list[int], markers: frozenset[int] = frozenset()) -> str:
        """The text of the completion alone, as decoded after the prefix."""
        dropped = self.tokenizer.control_ids - markers
        before = [number for number in self._prefix_ids if number not in dropped]
        whole = [*before, *(number for number in ids if number not in dropped)]
        return self.tokenizer.spell(whole)[len(self.tokenizer.spell(before)) :]

    def ends_with_one_of(self, stop: tuple[str, ...], ids: list[int]) -> bool:
        """True if the newest tokens contain a stop string. Special tokens count: `<|im_end|>` can be one.

        Matched on text, because the tokenization of a string depends on the text around it.
        """
        tail = STOP_TAIL + max(len(text) for text in stop)
        before = self._prefix_ids if len(ids) <= tail else []
        text = self.tokenizer.spell([*before, *ids[-tail:]])[len(self.tokenizer.spell(before)) :]
        return any(string in text for string in stop)
