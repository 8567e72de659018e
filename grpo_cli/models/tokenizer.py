"""The tokenizer interface of the project, and its Hugging Face implementation.

    ids = tokenizer.encode_prompt([{"role": "user", "content": "What is 2 + 2?"}], "<reasoning>")
    text = tokenizer.decode(completion_ids)

Text becomes ids once, when a prompt is built. What the policy samples stays ids; `decode` serves
rewards and people. `nanochat_tokenizer.NanochatTokenizer` is the other implementation.
"""

from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError

from grpo_cli.errors import ModelError
from grpo_cli.models.tokenizer_files import save_tokenizer
from grpo_cli.types import Message


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a completion."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that the tokenizer can produce."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without begin or end tokens."""

    def encode_prompt(self, messages: list[Message], prefix: str = "") -> list[int]:
        """Ids of a conversation up to where the assistant speaks, and `prefix` as its first words."""

    def decode(self, ids: list[int]) -> str:
        """Text of ids; special tokens are left out."""

    def save(self, folder: Path) -> None:
        """Write the files that load this tokenizer again, here and in plain mlx-lm."""


class ChatTokenizer:
    """A Hugging Face tokenizer with its chat template, as mlx-lm loads it."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped  # mlx_lm.tokenizer_utils.TokenizerWrapper

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every end token that the tokenizer, config.json and generation_config.json name."""
        return frozenset(self.wrapped.eos_token_ids)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return len(self.wrapped._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without begin or end tokens."""
        return self.wrapped.encode(text, add_special_tokens=False) if text else []

    def encode_prompt(self, messages: list[Message], prefix: str = "") -> list[int]:
        """Ids of the chat template up to the assistant's turn, then `prefix`.

        A base model without a template gets the messages' texts, one paragraph each.
        Raises ModelError where the template refuses the conversation.
        """
        if not self.wrapped.has_chat_template:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
            return list(self.wrapped.encode(text)) + self.encode(prefix)
        try:
            ids = self.wrapped.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(
                f"The model's chat template refuses a conversation of {roles}: {error}",
                'a template without a system role wants `system_prompt = ""`',
                trouble="chat-template",
            ) from error
        return list(ids) + self.encode(prefix)

    def decode(self, ids: list[int]) -> str:
        """Text of ids; special tokens are left out, spaces kept as they are."""
        return self.wrapped.decode(ids, skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat template."""
        save_tokenizer(self.wrapped, folder)
