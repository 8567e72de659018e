"""The tokenizer interface of the project, and its Hugging Face implementation.

    ids = tokenizer.encode_prompt([{"role": "user", "content": "What is 2 + 2?"}], "<reasoning>")
    text = tokenizer.decode(completion_ids)

Text becomes ids once, when a prompt is built. What the policy samples stays ids; `decode` serves
rewards and people. `nanochat_tokenizer.NanochatTokenizer` is the other implementation.
"""

from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError

from grpo_cli.errors import ModelError
from grpo_cli.models.tokenizer_files import save_tokenizer
from grpo_cli.types import Message

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # of tokens, as transformers names them
FAILED_EXPRESSION = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
CONVERSATION = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
# A macro of this name stands before transformers' function; it fills the codes of `strftime` in from `clock`.
CLOCK = """\
{%- macro strftime_now(format) -%}
{%- set filled = namespace(text=format) -%}
{%- for code, value in clock.items() -%}
{%- set filled.text = filled.text | replace(code, value) -%}
{%- endfor -%}
{{- filled.text -}}
{%- endmacro %}
"""
CODES = [f"%{mark}{letter}" for letter in "aAwdbBmyYHIMpSfzZjUWcxXGuVeDFTRhklsn" for mark in ("", "-")] + [
    "%%"
]


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    now: datetime | None  # the moment that chat templates with a date in them are told; None: the present

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a completion."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that the tokenizer can produce."""

    @property
    def needed_size(self) -> int:
        """The rows that a model needs at least: one more than the largest id of ordinary and end tokens.

        Tokens that were added beyond it (Gemma 3's for images) matter only where one occurs in a prompt.
        """

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without begin or end tokens."""

    def encode_prompt(self, messages: list[Message], prefix: str = "") -> list[int]:
        """Ids of a conversation up to where the assistant speaks, and `prefix` as its first words."""

    @property
    def control_ids(self) -> frozenset[int]:
        """Tokens that are no text: begin and end tokens, padding, the chat format's role markers."""

    def encode_text(self, text: str, prefix: str = "") -> list[int]:
        """Ids of a text that is to be continued, begin token included, and `prefix` as the first words."""

    def decode(self, ids: list[int]) -> str:
        """Text of ids without control tokens; other special tokens (`<answer>` may be one) stay."""

    def spell(self, ids: list[int]) -> str:
        """Text of ids, every token spelled."""

    def save(self, folder: Path) -> None:
        """Write the files that load this tokenizer again, here and in plain mlx-lm."""


class ChatTokenizer:
    """A Hugging Face tokenizer with its chat template, as mlx-lm loads it."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped  # mlx_lm.tokenizer_utils.TokenizerWrapper
        self.now: datetime | None = None

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every end token that the tokenizer, config.json and generation_config.json name."""
        return frozenset(self.wrapped.eos_token_ids)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return len(self.wrapped._tokenizer)

    @property
    def needed_size(self) -> int:
        """One more than the largest id of ordinary, begin, end and padding tokens."""
        inner = self.wrapped._tokenizer
        ends = {*self.eos_ids, inner.bos_token_id, inner.pad_token_id} - {None}
        return max(
            inner.vocab_size, *(end + 1 for end in ends if isinstance(end, int)), 0
        )  # others: config_check

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without begin or end tokens."""
        return self.wrapped.encode(text, add_special_tokens=False) if text else []

    def encode_prompt(self, messages: list[Message], prefix: str = "") -> list[int]:
        """Ids of the chat template up to the assistant's turn, then `prefix`.

        A base model without a template gets the messages' texts, one paragraph each.
        Raises ModelError where the template refuses the conversation.
        """
        if not self.wrapped.has_chat_template:
            return self.encode_text("\n\n".join(message["content"] for message in messages) + "\n\n", prefix)
        try:
            ids = self.wrapped.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False, **self._clock()
            )
        except (TemplateError, *FAILED_EXPRESSION) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(
                f"The model's chat template refuses a conversation of {roles}: {error}",
                'a template without a system role wants `system_prompt = ""`',
                trouble="chat-template",
            ) from error
        return list(ids) + self.encode(prefix)

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Tokens with a role of their own (bos, pad, …), end tokens, and those around the messages."""
        inner = self.wrapped._tokenizer
        named = {number for role in ROLES if (number := getattr(inner, f"{role}_token_id")) is not None}
        special = {number for number, token in inner.added_tokens_decoder.items() if token.special}
        return frozenset(named) | self.eos_ids | (special & self._around_messages())

    def _around_messages(self) -> set[int]:
        """Ids of a short conversation by the chat template, without what it lets the assistant begin with."""
        if not self.wrapped.has_chat_template:
            return set()
        try:
            return set(self.wrapped.apply_chat_template(CONVERSATION, return_dict=False))
        except (TemplateError, *FAILED_EXPRESSION):  # encode_prompt says so where it matters
            return set()

    def encode_text(self, text: str, prefix: str = "") -> list[int]:
        """Ids of a text that is to be continued, begin token included, then `prefix`."""
        return list(self.wrapped.encode(text)) + self.encode(prefix)

    def _clock(self) -> dict[str, Any]:
        """The template with the date that it is told, where it asks for one: Llama 3.1, SmolLM3, gpt-oss …"""
        if self.now is None or self.wrapped._chat_template is not None:  # mlx-lm's own templates have no date
            return {}
        template = self.wrapped.get_chat_template()
        if "strftime_now" not in template:
            return {}
        return {"chat_template": CLOCK + template, "clock": {code: self.now.strftime(code) for code in CODES}}

    def decode(self, ids: list[int]) -> str:
        """Text of ids without control tokens, spaces kept as they are."""
        return self.spell([number for number in ids if number not in self.control_ids])

    def spell(self, ids: list[int]) -> str:
        """Text of ids, every token spelled."""
        return self.wrapped.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat template."""
        save_tokenizer(self.wrapped, folder)
