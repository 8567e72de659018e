"""A completion's text after its thinking block, for rewards with `strip_thinking`.

    thinking = Thinking.of(tokenizer)
    thinking.after("<think>\\n2 + 2 is 4\\n</think>\\n\\n4")          →  "4"
    thinking.after("2 + 2 is 4\\n</think>\\n\\n4", is_opened=True)    →  "4": the prompt ends with `<think>`
    thinking.after("<think>\\n2 + 2 is")                             →  "": the block is not closed

The last block counts, as in the chat templates of Qwen3 and DeepSeek-R1, which keep what follows the last
`</think>` of an earlier turn. A text without a block stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import Rollout, StopReason

TAIL = 64  # ids at the end of a prompt in which an opened block is looked for
USUAL = ("<think>", "</think>")
OTHERS = (("[THINK]", "[/THINK]"),)  # that mlx-lm does not know: Magistral's
HARMONY = ("<|channel|>analysis", "<|channel|>final<|message|>")  # gpt-oss: channels, not a block


@dataclass(frozen=True)
class Thinking:
    """The spellings between which a model thinks."""

    start: str
    end: str
    is_of_tokens: bool = False  # they consist of control tokens, which a completion's text does not show

    @staticmethod
    def of(tokenizer: Tokenizer) -> "Thinking":
        """As mlx-lm finds them in a model's vocabulary; otherwise `<think>` and `</think>`."""
        wrapped: Any = getattr(tokenizer, "wrapped", None)
        if wrapped is None:
            return Thinking(*USUAL)
        vocabulary = wrapped._tokenizer.added_tokens_encoder
        if "<|channel|>" in vocabulary and "<|message|>" in vocabulary:
            return Thinking(*HARMONY, is_of_tokens=True)
        found = next((pair for pair in OTHERS if all(tag in vocabulary for tag in pair)), USUAL)
        return Thinking(wrapped.think_start, wrapped.think_end) if wrapped.has_thinking else Thinking(*found)

    def after(self, text: str, is_opened: bool = False) -> str:
        """The text after the last block, empty if that is not closed. `is_opened`: the prompt opened one."""
        _, end, tail = text.rpartition(self.end)
        if self.start in tail or (is_opened and not end):
            return ""
        return tail.lstrip() if end else text

    def is_opened_by(self, prompt: str) -> bool:
        """True if a prompt's text ends with the beginning of a block, as some templates let a turn begin."""
        return prompt.rstrip().endswith(self.start)


def set_answers(
    rollouts: Sequence[Rollout], prompt_ids: list[int], tokenizer: Tokenizer, prefix: str
) -> None:
    """Set each rollout's text and messages after its thinking, which rewards receive in place of the whole.

    `prefix`: the completion_prefix, with which the prompt's ids end and the rollouts' texts begin.
    """
    thinking = Thinking.of(tokenizer)
    is_opened = thinking.is_opened_by(tokenizer.spell(prompt_ids[-TAIL:]).removesuffix(prefix))
    for rollout in rollouts:
        text = spelled(rollout, tokenizer, prefix) if thinking.is_of_tokens else rollout.text
        rollout.answer_text = thinking.after(text, is_opened)
        if thinking.is_of_tokens and rollout.answer_text == text:
            rollout.answer_text = rollout.text
        rollout.answer_messages = [
            {**message, "content": thinking.after(message["content"], is_opened)}
            if message["role"] == "assistant"
            else message
            for message in rollout.messages
        ]


def spelled(rollout: Rollout, tokenizer: Tokenizer, prefix: str) -> str:
    """A completion's text with its control tokens, without the token that ended it."""
    ids = rollout.token_ids[:-1] if rollout.stop_reason is StopReason.EOS else rollout.token_ids
    return prefix + tokenizer.spell(ids)
