"""The text of a completion: what the policy said after the prompt, read together with the words before it.

    CompletionText(tokenizer, "The answer is").of([ids of " 42"])   →  "The answer is 42"

Read alone, the first word would lose its blank with tokenizers that drop a leading one (SentencePiece's).
Control tokens (end of turn, the chat template's role markers, padding) are left out; all other tokens that
were sampled stay, special ones among them: `<answer>` may be one.
"""

from dataclasses import dataclass
from functools import cached_property

from grpo_cli.models.tokenizer import Tokenizer

STOP_TAIL = 16  # tokens of text looked at for a stop string, beyond its own length in characters


@dataclass(frozen=True)
class CompletionText:
    """The texts of completions whose prompts end with the ids of `prefix`, the text they begin with."""

    tokenizer: Tokenizer
    prefix: str = ""

    @cached_property
    def _prefix_ids(self) -> list[int]:
        return self.tokenizer.encode(self.prefix) if self.prefix else []

    def of(self, ids: list[int]) -> str:
        """The prefix and the completion."""
        return self.prefix + self.after_prefix(ids)

    def after_prefix(self, ids: list[int]) -> str:
        """The completion alone, as it reads after the prefix."""
        before = self.tokenizer.decode(self._prefix_ids)
        return self.tokenizer.decode([*self._prefix_ids, *ids])[len(before) :]

    def ends_with_one_of(self, stop: tuple[str, ...], ids: list[int]) -> bool:
        """Whether the newest tokens hold a stop string. Every token is spelled: `<|im_end|>` stops, too.

        Matched on text, because the tokens that spell a string depend on what stands around it.
        """
        tail = STOP_TAIL + max(len(text) for text in stop)
        before = self._prefix_ids if len(ids) <= tail else []
        text = self.tokenizer.spell([*before, *ids[-tail:]])[len(self.tokenizer.spell(before)) :]
        return any(string in text for string in stop)
