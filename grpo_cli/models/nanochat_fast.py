"""nanochat's vocabulary for other programs: tokenizer.json and tokenizer_config.json.

    hf_tokenizer(encoding).encode("Hello").ids == encoding.encode_ordinary("Hello")

tiktoken stores tokens and ranks, `tokenizers` needs the merges that made them: they are recovered
from the ranks. The chat template is an approximation; the exact format is in nanochat_chat.py.
"""

from itertools import pairwise
from typing import Any

import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from grpo_cli.errors import ModelError

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


def hf_tokenizer(encoding: tiktoken.Encoding) -> Tokenizer:
    """The encoding as a `tokenizers` byte-level BPE with the same ids for ordinary text."""
    ranks = encoding._mergeable_ranks
    vocab = {_printable(token): rank for token, rank in ranks.items()}
    merges = [(_printable(left), _printable(right)) for left, right in recover_merges(ranks)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    split: Any = pre_tokenizers.Split(_pattern(encoding._pat_str), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    by_id = sorted(encoding._special_tokens.items(), key=lambda item: item[1])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name, _ in by_id])
    return tokenizer


def _pattern(text: str) -> Regex:
    """tiktoken's pattern for `tokenizers`, whose regular expressions differ in rare constructs."""
    try:
        return Regex(text)
    except Exception as error:  # tokenizers raises Exception itself for a bad pattern
        raise ModelError(
            f"Failed to load tiktoken tokenizer: its pattern cannot be written in tokenizer.json ({error})",
            "fetch `tokenizer.pkl` again, from the same nanochat run",
            trouble="tokenizer",
        ) from error


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
    """The BPE merges, in order, recovered from ranks.

    A token of several bytes is the merge of the two parts that remain when its bytes are merged with
    lower-ranked tokens only. Raises ModelError if there are not two, which training never produces.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = _merge_below(token, ranks, rank)
            if len(parts) != 2:
                raise ModelError(
                    f"Failed to load tiktoken tokenizer: the token {token!r} is not a merge of two others",
                    "fetch `tokenizer.pkl` again, from the same nanochat run",
                    trouble="tokenizer",
                )
            merges.append((parts[0], parts[1]))
    return merges


def _merge_below(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """The parts of `token` after all merges into tokens with a rank below `limit`."""
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
    """GPT-2's table of one printable character per byte, used in tokenizer.json files."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_CHARACTER_OF_BYTE = _printable_bytes()


def _printable(token: bytes) -> str:
    return "".join(_CHARACTER_OF_BYTE[byte] for byte in token)
