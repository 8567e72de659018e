"""nanochat's tokenizer: a pickled tiktoken encoding, and the chat format that goes with it.

    <|bos|><|user_start|>What is 247 + 538?<|user_end|><|assistant_start|>

Turns follow each other without newlines, and a system message is put before the first user message
with an empty line between. Message text is encoded ordinarily: a special token's spelling inside it
stays plain text, which a chat template cannot express. For other programs the same vocabulary is
written as tokenizer.json. Source: karpathy/nanochat, nanochat/tokenizer.py.
"""

import json
import pickle
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from grpo_cli.errors import ModelError
from grpo_cli.models import unpickle
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
TOKENIZER_FILES = ("tokenizer.pkl", "tokenizer.json", "tokenizer_config.json")

CHAT_TEMPLATE = (
    "{%- set system = '' -%}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set system = messages[0]['content'] + '\\n\\n' -%}{%- set messages = messages[1:] -%}"
    "{%- endif -%}"
    "{{- '<|bos|>' -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{- '<|user_start|>' + (system if loop.first else '') + message['content'] + '<|user_end|>' -}}"
    "{%- else -%}"
    "{{- '<|assistant_start|>' + message['content'] + '<|assistant_end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}"
)


class NanochatTokenizer:
    """Text to token ids and back, and conversations to prompts, as nanochat does it."""

    def __init__(self, encoding: tiktoken.Encoding, folder: Path | None = None) -> None:
        self.encoding = encoding
        self.folder = folder  # where it was loaded from; its files are copied when it is saved
        self._special = {name: encoding.encode_single_token(name) for name in SPECIAL_TOKENS}
        self._special_ids = frozenset(encoding._special_tokens.values())

    @classmethod
    def load(cls, folder: Path) -> "NanochatTokenizer":
        """Read `tokenizer.pkl` in a folder without running anything in it.

        Raises ModelError where the file is missing, is no pickled encoding, or lacks special tokens.
        """
        return cls(read_encoding(folder / "tokenizer.pkl"), folder)

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a completion: assistant_end and bos."""
        return frozenset(self._special[name] for name in END_TOKENS)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the special ones included."""
        return self.encoding.n_vocab

    def encode(self, text: str) -> list[int]:
        """Ids of a text; a special token's spelling in it stays plain text."""
        return self.encoding.encode_ordinary(text)

    def encode_prompt(self, messages: list[Message], prefix: str = "") -> list[int]:
        """Ids of a conversation up to assistant_start, and of the text the completion begins with.

        Raises ModelError for a role that nanochat's chat format does not have at that place.
        """
        ids = [self._special["<|bos|>"]]
        for role, content in _turns(messages):
            ids += [
                self._special[f"<|{role}_start|>"],
                *self.encode(content),
                self._special[f"<|{role}_end|>"],
            ]
        return [*ids, self._special["<|assistant_start|>"], *self.encode(prefix)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        return self.encoding.decode([token for token in ids if token not in self._special_ids])

    def save(self, folder: Path) -> None:
        """Write tokenizer.pkl, tokenizer.json and tokenizer_config.json, copies where there are originals."""
        folder.mkdir(parents=True, exist_ok=True)
        missing = []
        for name in TOKENIZER_FILES:
            original = self.folder / name if self.folder else None
            if original and original.exists():
                if not (folder / name).exists() or not original.samefile(folder / name):
                    shutil.copyfile(original, folder / name)
            else:
                missing.append(name)
        if "tokenizer.pkl" in missing:
            (folder / "tokenizer.pkl").write_bytes(pickle.dumps(self.encoding, protocol=4))
        if "tokenizer.json" in missing:
            hf_tokenizer(self.encoding).save(str(folder / "tokenizer.json"))
        if "tokenizer_config.json" in missing:
            (folder / "tokenizer_config.json").write_text(json.dumps(hf_tokenizer_config(), indent=2) + "\n")


def read_encoding(path: Path) -> tiktoken.Encoding:
    """The encoding that a nanochat tokenizer.pkl describes, built anew from its four fields.

    Raises ModelError, beginning `Failed to load tiktoken tokenizer`, for anything else.
    """
    try:
        fields = unpickle.encoding_fields(path)
        encoding = tiktoken.Encoding(**fields)
    except FileNotFoundError:
        raise _failure(f"{path} does not exist") from None
    except (unpickle.RefusedPickle, OSError, TypeError, ValueError, KeyError) as error:
        raise _failure(f"{path}: {error}") from error
    missing = [name for name in SPECIAL_TOKENS if name not in fields["special_tokens"]]
    if missing:
        raise _failure(f"{path} has no special token {', '.join(missing)}")
    return encoding


def _failure(reason: str) -> ModelError:
    return ModelError(
        f"Failed to load tiktoken tokenizer: {reason}",
        "copy the `tokenizer.pkl` of the same nanochat run into the model's folder (each run trains its own)",
    )


def _turns(messages: list[Message]) -> list[tuple[str, str]]:
    """(role, text) of each turn, the system message merged into the first user message."""
    turns = [(message["role"], message["content"]) for message in messages]
    if turns and turns[0][0] == "system":
        if len(turns) < 2 or turns[1][0] != "user":
            raise ModelError(
                "nanochat's chat format has no place for a system message without a user message after it",
                "put a user message second",
            )
        turns = [("user", f"{turns[0][1]}\n\n{turns[1][1]}"), *turns[2:]]
    for role, _ in turns:
        if role not in ("user", "assistant"):
            raise ModelError(
                f"nanochat's chat format has no role {role!r} here",
                "use `user` and `assistant`, and at most one `system` message, at the beginning",
            )
    return turns


# --- the same vocabulary as tokenizer.json --------------------------------------------------------


def hf_tokenizer(encoding: tiktoken.Encoding) -> Tokenizer:
    """The encoding as a `tokenizers` byte-level BPE, which gives the same ids for ordinary text."""
    ranks = encoding._mergeable_ranks
    vocab = {_printable(token): rank for token, rank in ranks.items()}
    merges = [(_printable(left), _printable(right)) for left, right in recover_merges(ranks)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    split: Any = pre_tokenizers.Split(Regex(encoding._pat_str), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    by_id = sorted(encoding._special_tokens.items(), key=lambda item: item[1])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name, _ in by_id])
    return tokenizer


def hf_tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json for programs that load tokenizer.json through transformers."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def recover_merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The BPE merges, in order, that ranks stand for.

    A token of several bytes is made from the two parts that are left when its bytes are merged by
    the tokens of lower rank only.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = _merge_below(token, ranks, rank)
            merges.append((left, right))
    return merges


def _merge_below(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """The parts of `token` after all merges into tokens whose rank is below `limit`."""
    parts = [bytes([byte]) for byte in token]
    while True:
        candidates = [
            (ranks[left + right], place)
            for place, (left, right) in enumerate(pairwise(parts))
            if ranks.get(left + right, limit) < limit
        ]
        if not candidates:
            return parts
        _, place = min(candidates)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def _printable_bytes() -> dict[int, str]:
    """GPT-2's table of one printable character for each byte, which tokenizer.json files are written in."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_CHARACTER_OF_BYTE = _printable_bytes()


def _printable(token: bytes) -> str:
    return "".join(_CHARACTER_OF_BYTE[byte] for byte in token)
