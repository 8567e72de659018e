"""The tokenizer interface of the project, and its Hugging Face implementation.

    ids = tokenizer.encode_prompt([{"role": "user", "content": "What is 2 + 2?"}], "<reasoning>")
    text = tokenizer.decode(completion_ids)

Text becomes ids once, when a prompt is built. Sampled ids are never re-encoded; `decode` is for
rewards and display. `nanochat_tokenizer.NanochatTokenizer` is the other implementation.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError

from grpo_cli.errors import ModelError
from grpo_cli.models.bounded_template import EndlessTemplate
from grpo_cli.models.spelled_tokens import SpelledTokens
from grpo_cli.models.tokenizer_files import RustPanic, UnusableTokenizer, rust_panics, save_tokenizer
from grpo_cli.types import Message

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # names of special token roles in transformers
FAILED_EXPRESSION = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
PROBE = [{"role": "system", "content": "qzxSystemxzq"}, {"role": "user", "content": "qzxQuestionxzq"}]
ANSWERED = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "qzxAnswerxzq"}]
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end_of_turn|>", "<|eot|>", "<turn|>")
CONVERSATION = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
# A macro of this name overrides transformers' function; it fills in the codes of `strftime` from `clock`.
CLOCK = """\
{%- macro strftime_now(format) -%}
{%- set filled = namespace(text=format | replace("%%", "\0")) -%}
{%- for code, value in clock.items() -%}
{%- set filled.text = filled.text | replace(code, value) -%}
{%- endfor -%}
{{- filled.text | replace("\0", "%") -}}
{%- endmacro %}
"""
CODES = [f"%{mark}{letter}" for letter in "aAwdbBmyYHIMpSfzZjUWcxXGuVeDFTRhklsn" for mark in ("", "-")]


class Tokenizer(Protocol):
    """The tokenizer interface of the engine."""

    now: datetime | None  # the date for chat templates; None: the present
    template_keywords: dict[str, Any]  # keywords for the chat template

    def unread_keywords(self) -> list[str]:
        """Names of `template_keywords` that the chat template does not read."""

    @property
    def merges_system(self) -> bool:
        """True if the chat template has no system role: the message is put before the first user message."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a completion."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that the tokenizer can produce."""

    @property
    def needed_size(self) -> int:
        """Minimum rows of a model: one more than the largest id of ordinary and end tokens.

        Added tokens beyond it (Gemma 3's for images) matter only if one occurs in a prompt.
        """

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without begin or end tokens."""

    def encode_prompt(
        self, messages: list[Message], prefix: str = "", tools: list[dict[str, Any]] | None = None
    ) -> list[int]:
        """Ids of a conversation up to the assistant's turn, followed by the completion prefix.

        `tools`: schemas of the functions that the model may call.
        """

    @property
    def control_ids(self) -> frozenset[int]:
        """Tokens that are not text: begin and end tokens, padding, the chat format's role markers."""

    def encode_text(self, text: str, prefix: str = "") -> list[int]:
        """Ids of a text to continue, with the begin token and the completion prefix."""

    def decode(self, ids: list[int]) -> str:
        """Text of ids without control tokens; other special tokens (`<answer>` may be one) stay."""

    def spell(self, ids: list[int]) -> str:
        """Text of ids, including special tokens."""

    def save(self, folder: Path) -> None:
        """Write files that load this tokenizer again, here and in plain mlx-lm."""


def endless(folder: str, error: EndlessTemplate) -> UnusableTokenizer:
    """The error for a chat template that was stopped."""
    return UnusableTokenizer(
        f"The chat template of {folder} does not end: {error}",
        "copy tokenizer_config.json and chat_template.jinja from the same model",
        trouble="chat-template",
    )


def merged(messages: list[Message]) -> list[Message]:
    """The conversation with its system message at the beginning of the first user message.

    An empty line stands between, as Gemma's, Mistral's and nanochat's own code writes it.
    """
    place = next((n for n, message in enumerate(messages) if message["role"] == "user"), None)
    if place is None:
        return messages
    content = f"{messages[0]['content']}\n\n{messages[place]['content']}"
    return [*messages[1:place], {**messages[place], "content": content}, *messages[place + 1 :]]


class ChatTokenizer:
    """A Hugging Face tokenizer with its chat template, as mlx-lm loads it."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped  # mlx_lm.tokenizer_utils.TokenizerWrapper
        self.now: datetime | None = None
        self.template_keywords: dict[str, Any] = {}
        self.turn_ends: list[int] = []  # end tokens that only the chat template or the tokenizer names

    def unread_keywords(self) -> list[str]:
        """Names of `template_keywords` that do not occur in the chat template.

        mlx-lm's own templates and a tokenizer class with its own are not searched.
        """
        if self.wrapped._chat_template is not None or self.wrapped._tokenizer.chat_template is None:
            return [] if self.wrapped.has_chat_template else list(self.template_keywords)
        words = set(re.findall(r"\w+", str(self.wrapped._tokenizer.chat_template)))
        return [name for name in self.template_keywords if name not in words]

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every end token that the tokenizer, config.json and generation_config.json name."""
        return frozenset(self.wrapped.eos_token_ids)

    def add_turn_ends(self) -> None:
        """Make end tokens of those that end a turn but that no file names as such: `turn_ends`.

        The tokenizer's own `eot_token`, and the token with which the template ends an answer if it is one of
        TURN_ENDS: mlx-lm ends on the tokens that config.json and generation_config.json list, and a model's
        copy may lack the list. Other tokens are not guessed: gpt-oss writes `<|end|>` and goes on.
        """
        named = getattr(self.wrapped._tokenizer, "eot_token", None)
        shown = (self._try_template(ANSWERED) or "").rpartition(ANSWERED[-1]["content"])[2].lstrip()
        written = next((text for text in TURN_ENDS if shown.startswith(text)), None)
        known = {self.spelled.added.get(text) for text in (named, written) if isinstance(text, str)}
        self.turn_ends = sorted(
            number for number in known if number is not None and number not in self.eos_ids
        )
        self.wrapped.eos_token_ids = {*self.eos_ids, *self.turn_ends}

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
        with self._rust_panics():
            return self.wrapped.encode(text, add_special_tokens=False) if text else []

    def encode_prompt(
        self, messages: list[Message], prefix: str = "", tools: list[dict[str, Any]] | None = None
    ) -> list[int]:
        """Ids of the chat template up to the assistant's turn, then `prefix`.

        Control tokens spelled in a message stay text (spelled_tokens.py).
        For a base model without a template, the messages' texts become paragraphs. Raises ModelError if the
        template refuses the conversation.
        """
        if not self.wrapped.has_chat_template:
            return self.encode_text("\n\n".join(message["content"] for message in messages) + "\n\n", prefix)
        ids = list(self._apply_template(messages, tools, add_generation_prompt=True))
        # A tokenizer class that tokenizes conversations in its own way is left to it.
        if self.spelled.occur_in(messages) and self.encode(self.render(messages, tools)) == ids:
            ids = self.spelled.encode(lambda cut: self.render(cut, tools), messages)
        return ids + (self.encode(self.answer_header) + self.encode(prefix) if prefix else [])

    @cached_property
    def answer_header(self) -> str:
        """Text with control tokens that the template puts between its generation prompt and an answer, or "".

        A prefix stands after it, as with transformers' continue_final_message: an answer of gpt-oss needs its
        channel, `<|channel|>final<|message|>`. Without control tokens, as Qwen3's empty thinking block or a
        space, it is left out: the model continues the generation prompt itself, and may think.
        """
        if not self.wrapped.has_chat_template:
            return ""
        asked, answered = self._try_template(ANSWERED[:1]) or "", self._try_template(ANSWERED) or ""
        header = answered.rpartition(ANSWERED[-1]["content"])[0]
        header = header[len(asked) :] if asked and header.startswith(asked) else ""
        return header if self.control_ids.intersection(self.encode(header)) else ""

    def render(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, is_to_answer: bool = True
    ) -> str:
        """The chat template's text; `is_to_answer`: up to the assistant's next turn. Raises ModelError."""
        return str(self._apply_template(messages, tools, add_generation_prompt=is_to_answer, tokenize=False))

    def _apply_template(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, **options: Any
    ) -> Any:
        messages = merged(messages) if self._merges(messages) else messages
        given = {
            **self.template_keywords,
            **options,
            **self._clock(tools),
            **({"tools": tools} if tools else {}),
        }
        try:
            with self._rust_panics():
                return self.wrapped.apply_chat_template(messages, return_dict=False, **given)
        except EndlessTemplate as error:
            raise endless(self._folder, error) from error
        except (TemplateError, *FAILED_EXPRESSION) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(
                f"The model's chat template refuses a conversation of {roles}: {error}",
                "leave out messages of roles that the template does not know: `user` and `assistant` in turn "
                "are known to all",
                trouble="chat-template",
            ) from error

    def _merges(self, messages: list[Message]) -> bool:
        return any(message["role"] == "system" for message in messages[:1]) and self.merges_system

    @cached_property
    def spelled(self) -> SpelledTokens:
        """The added tokens by their spellings."""
        return SpelledTokens(self)

    @cached_property
    def merges_system(self) -> bool:
        """True if the template refuses a system message, or leaves it out, but accepts the question alone."""
        if not self.wrapped.has_chat_template:
            return False
        shown = self._try_template(PROBE)
        return (shown is None or PROBE[0]["content"] not in shown) and bool(self._try_template(PROBE[1:]))

    def _try_template(self, messages: list[Message]) -> str | None:
        """The template's text of a conversation; None if it refuses it."""
        options = {**self.template_keywords, "add_generation_prompt": True, "tokenize": False}
        try:
            return str(self.wrapped.apply_chat_template(messages, return_dict=False, **options))
        except EndlessTemplate as error:
            raise endless(self._folder, error) from error
        except (TemplateError, *FAILED_EXPRESSION):
            return None

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Special tokens (bos, pad, …), end tokens, and the chat template's markers around messages.

        The tokens around a model's thinking are text to rewards, even if a template writes them.
        """
        inner = self.wrapped._tokenizer
        named = {number for role in ROLES if (number := getattr(inner, f"{role}_token_id")) is not None}
        special = {number for number, token in inner.added_tokens_decoder.items() if token.special}
        thinking = {*(self.wrapped.think_start_tokens or ()), *(self.wrapped.think_end_tokens or ())}
        return frozenset(named) | self.eos_ids | (special & self._around_messages() - thinking)

    def _around_messages(self) -> set[int]:
        """Ids of a short templated conversation, without the beginning of the assistant's turn."""
        if not self.wrapped.has_chat_template:
            return set()
        try:
            return set(self.wrapped.apply_chat_template(CONVERSATION, return_dict=False))
        except (TemplateError, *FAILED_EXPRESSION):  # encode_prompt reports it where it matters
            return set()

    def encode_text(self, text: str, prefix: str = "") -> list[int]:
        """Ids of a text to continue, with the begin token, then `prefix`."""
        with self._rust_panics():
            return list(self.wrapped.encode(text)) + self.encode(prefix)

    def _clock(self, tools: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """The template with a fixed date, for models that use it: Llama 3.1, SmolLM3, gpt-oss …"""
        if self.now is None or self.wrapped._chat_template is not None:  # mlx-lm's own templates have no date
            return {}
        template = self.wrapped.get_chat_template(tools=tools)
        if "strftime_now" not in template:
            return {}
        return {"chat_template": CLOCK + template, "clock": {code: self.now.strftime(code) for code in CODES}}

    def decode(self, ids: list[int]) -> str:
        """Text of ids without control tokens; spaces stay unchanged."""
        return self.spell([number for number in ids if number not in self.control_ids])

    def spell(self, ids: list[int]) -> str:
        """Text of ids, including special tokens."""
        with self._rust_panics():
            return self.wrapped.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    @property
    def _folder(self) -> str:
        return str(self.wrapped._tokenizer.name_or_path)

    @contextmanager
    def _rust_panics(self) -> Iterator[None]:
        """Turn a panic into UnusableTokenizer: a regular expression that takes too long for a text, say."""
        try:
            with rust_panics():
                yield
        except RustPanic as error:
            raise UnusableTokenizer(
                f"The tokenizer in {self._folder} fails on a text: {error}",
                "copy tokenizer.json and tokenizer_config.json from the same model",
                trouble="tokenizer",
            ) from error

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat template."""
        save_tokenizer(self.wrapped, folder)
