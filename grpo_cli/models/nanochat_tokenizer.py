"""nanochat's tokenizer: a pickled tiktoken encoding, read without executing the pickle.

    tokenizer = NanochatTokenizer.load(folder)                 # tokenizer.pkl in it
    tokenizer.encode_prompt([{"role": "user", "content": "What is 247 + 538?"}])

The chat format is in nanochat_chat.py, the same vocabulary for other programs in nanochat_fast.py.
Source: karpathy/nanochat, nanochat/tokenizer.py.
"""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import tiktoken

from grpo_cli.errors import ModelError
from grpo_cli.models import unpickle
from grpo_cli.models.nanochat_chat import render
from grpo_cli.models.nanochat_fast import hf_tokenizer, hf_tokenizer_config
from grpo_cli.trust import without_code_in
from grpo_cli.types import Message

SPECIAL_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
END_TOKENS = ("<|assistant_end|>", "<|bos|>")  # generation stops on either
# A text with every class of characters that patterns distinguish: letters, numbers, marks, signs, spaces.
PROBE = (
    "The don't WE'LL \t 2024 3.14 naïve Größe 日本語 हिन्दी ½ \r\n\n  x!!! \n\n 👍🏽 \u00a0\u3000 a\u0301 "
    "$%&()*+,-./:;<=>?@[\\]^_`{|}~ end  "
)
CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = ("tokenizer.pkl", "tokenizer.json", CONFIG)


class NanochatTokenizer:
    """nanochat's conversion of text to token ids and back, and of conversations to prompts."""

    def __init__(self, encoding: tiktoken.Encoding, files: Mapping[str, bytes] | None = None) -> None:
        self.encoding = encoding
        self.now: datetime | None = None  # nanochat's conversations have no date
        self.template_keywords: dict[str, Any] = {}  # and no keywords
        self.merges_system = False  # its format always does: nothing that a user must be told
        self.files = dict(files or {})  # as loaded; saved unchanged except for names of code
        self._special = {name: encoding.encode_single_token(name) for name in SPECIAL_TOKENS}
        self.control_ids = frozenset(self._special.values())  # tokens of the chat format

    @classmethod
    def load(cls, folder: Path) -> "NanochatTokenizer":
        """Read `tokenizer.pkl` from a folder without executing it.

        Raises ModelError if the file is missing, is not a pickled encoding, or lacks special tokens.
        """
        encoding = read_encoding(folder / "tokenizer.pkl")
        paths = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
        files = {path.name: path.read_bytes() for path in paths}
        try:
            files |= {CONFIG: without_code_in(files[CONFIG])} if CONFIG in files else {}
        except (ValueError, RecursionError):  # not JSON: written anew
            del files[CONFIG]
        return cls(encoding, files)

    def unread_keywords(self) -> list[str]:
        """All names of `template_keywords`: nanochat has no chat template."""
        return list(self.template_keywords)

    @property
    def bos_id(self) -> int:
        """The first token of every conversation."""
        return self._special["<|bos|>"]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a completion: assistant_end and bos, in this order."""
        return tuple(self._special[name] for name in END_TOKENS)

    @property
    def eos_ids(self) -> frozenset[int]:
        """The end tokens as a set."""
        return frozenset(self.end_ids)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, including special ones."""
        return self.encoding.n_vocab

    @property
    def needed_size(self) -> int:
        """The vocabulary size: nanochat's models have one row per token."""
        return self.vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of a text; spelled-out special tokens stay plain text."""
        return self.encoding.encode_ordinary(text)

    def encode_prompt(
        self, messages: list[Message], prefix: str = "", tools: list[dict[str, Any]] | None = None
    ) -> list[int]:
        """Ids of a conversation up to assistant_start, followed by the completion prefix.

        Raises ModelError for a role that the chat format does not allow at that position, and for `tools`,
        which it has no place for.
        """
        if tools:
            raise ModelError(
                "nanochat's chat format has no place for tools",
                'of tools it knows its calculator alone: `tools = ["calculator"]`',
                trouble="chat-template",
            )
        ids, _ = self.render(messages)
        return [*ids, self._special["<|assistant_start|>"], *self.encode(prefix)]

    def encode_text(self, text: str, prefix: str = "") -> list[int]:
        """Ids of bos, a text to continue, and the completion prefix."""
        return [self.bos_id, *self.encode(text), *self.encode(prefix)]

    def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
        """Ids (T,) of a whole conversation, and a mask (T,): 1 for tokens written by the assistant.

        Raises ModelError as `encode_prompt` does.
        """
        return render(messages, self.encode, self._special)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without the chat format's tokens; invalid UTF-8 becomes U+FFFD."""
        return self.spell([token for token in ids if token not in self.control_ids])

    def spell(self, ids: Sequence[int]) -> str:
        """Text of ids, including special tokens."""
        return self.encoding.decode(list(ids))

    def save(self, folder: Path) -> None:
        """Write tokenizer.pkl, tokenizer.json and tokenizer_config.json; copies loaded files unchanged."""
        folder.mkdir(parents=True, exist_ok=True)
        made: dict[str, Callable[[], str | bytes]] = {
            "tokenizer.pkl": lambda: pickle.dumps(self.encoding, protocol=4),
            "tokenizer.json": lambda: hf_tokenizer(self.encoding).to_str(),
            "tokenizer_config.json": lambda: json.dumps(hf_tokenizer_config(), indent=2) + "\n",
        }
        for name, make in made.items():
            content = self.files.get(name) or make()
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def read_encoding(path: Path, repository: str | None = None) -> tiktoken.Encoding:
    """The encoding in a nanochat tokenizer.pkl, rebuilt from its four fields.

    `repository`: origin of the file, for the hint. Raises ModelError that begins with `Failed to load
    tiktoken tokenizer` for anything else.
    """
    try:
        fields = unpickle.encoding_fields(path)
        encoding = tiktoken.Encoding(**fields)
        _check_pattern(encoding)
    except FileNotFoundError:
        raise _failure(f"{path} does not exist", repository) from None
    except (unpickle.RefusedPickle, OSError, TypeError, ValueError, KeyError) as error:
        raise _failure(f"{path}: {error}", repository) from error
    missing = [name for name in SPECIAL_TOKENS if name not in fields["special_tokens"]]
    if missing:
        raise _failure(f"{path} has no special token {', '.join(missing)}", repository)
    first = len(fields["mergeable_ranks"])
    if any(fields["special_tokens"][name] != first + place for place, name in enumerate(SPECIAL_TOKENS)):
        raise _failure(f"{path}: its special tokens do not have the ids from {first} on", repository)
    return encoding


def _check_pattern(encoding: tiktoken.Encoding) -> None:
    """Raise ValueError if the pattern skips some text, which tiktoken would drop silently."""
    try:
        text = encoding.decode(encoding.encode_ordinary(PROBE))
    except BaseException as error:
        # A pattern that matches nothing makes tiktoken panic; the class of that error cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        text = ""
    if text != PROBE:
        raise ValueError("its pattern leaves out some text")


def _failure(reason: str, repository: str | None) -> ModelError:
    again = (
        f"fetch only that file again: `hf download {repository} tokenizer.pkl --force-download`"
        if repository
        else "fetch only that file again (`hf download REPOSITORY tokenizer.pkl --local-dir FOLDER`) or copy "
        "it from the same nanochat run: each run trains its own"
    )
    return ModelError(f"Failed to load tiktoken tokenizer: {reason}", again, trouble="tokenizer")
