"""Read the one object that nanochat pickles, a tiktoken encoding, without running anything.

A pickle is a program: plain `pickle.load` executes whatever the file names. Here the file may name
two things only, `tiktoken.core.Encoding`, whose state is captured as data, and `_codecs.encode`,
which protocol 2 uses to write bytes as text. Everything else is refused by its name, unexecuted.

    encoding_fields(Path("tokenizer.pkl"))["mergeable_ranks"][b"the"]     # 346, say

A pickle has no checksum, so its contents are checked for what training produces: ranks without gaps, and
each token a piece of text joined from two of lower rank. A changed letter in a token that is still
such a merge cannot be detected.
"""

import codecs
import reprlib
from pathlib import Path
from typing import Any

from grpo_cli.files import open_regular
from grpo_cli.models.pickle_reader import RefusedPickle, read_pickle

FIELDS = {"name": str, "pat_str": str, "mergeable_ranks": dict, "special_tokens": dict}
LARGEST = 64 << 20  # bytes; 65536 tokens take 1 MB
NO_TOKEN = (1 << 32) - 1  # tiktoken's ids are unsigned, and this one means none
MOST_WORK = 1 << 26  # bytes compared to find every token's parts; 65536 tokens take 5 million
CONTINUATION = bytes(range(0x80, 0xC0))  # continuation bytes of a UTF-8 character


class _CapturedEncoding:
    """Stand-in for tiktoken.core.Encoding that keeps the state set by the pickle."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _latin1_bytes(text: Any, codec: Any) -> bytes:
    """Protocol 2's `_codecs.encode(text, "latin1")`, and no other use of that name."""
    if not isinstance(text, str) or codec != "latin1":
        raise RefusedPickle(f"it calls _codecs.encode with the codec {reprlib.repr(codec)}")
    return text.encode("latin1")


ALLOWED = {
    "tiktoken.core.Encoding": _CapturedEncoding,
    "_codecs.encode": _latin1_bytes,
}


def encoding_fields(path: Path) -> dict[str, Any]:
    """The fields of the pickled encoding: name, pat_str, mergeable_ranks and special_tokens.

    Raises RefusedPickle for any other content, OSError if the file cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise RefusedPickle(f"it is larger than {LARGEST >> 20} MB")
    return _checked(read_pickle(content, ALLOWED, "which a tokenizer has no use for"))


def _checked(found: Any) -> dict[str, Any]:
    """The captured state, if it has tiktoken's form."""
    if not isinstance(found, _CapturedEncoding):
        raise RefusedPickle(f"it holds a {type(found).__name__}, not a tiktoken encoding")
    state = found.state
    if isinstance(state, str):
        raise RefusedPickle(f"it only names an encoding ({reprlib.repr(state)}) and does not contain it")
    if not isinstance(state, dict) or set(state) != set(FIELDS):
        raise RefusedPickle(f"its encoding must have exactly the fields {', '.join(FIELDS)}")
    for field, kind in FIELDS.items():
        if not isinstance(state[field], kind):
            raise RefusedPickle(f"its field {field} is not of type {kind.__name__}")
    _check_tokens("mergeable_ranks", state["mergeable_ranks"], bytes)
    _check_tokens("special_tokens", state["special_tokens"], str)
    _check_ids(state["mergeable_ranks"], state["special_tokens"])
    _check_merges(state["mergeable_ranks"])
    return state


def _check_tokens(field: str, tokens: dict[Any, Any], kind: type) -> None:
    for token, rank in tokens.items():
        if not isinstance(token, kind) or type(rank) is not int or not 0 <= rank < NO_TOKEN:
            raise RefusedPickle(f"its field {field} holds {reprlib.repr(token)}: {reprlib.repr(rank)}")


def _check_ids(ranks: dict[bytes, int], special: dict[str, int]) -> None:
    """Raise RefusedPickle if tokens share an id or a byte has none: tiktoken aborts on both."""
    ids = [*ranks.values(), *special.values()]
    if len(set(ids)) != len(ids):
        raise RefusedPickle("several of its tokens have the same id")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise RefusedPickle(f"it has no token for the byte {missing[0]}")
    if max(ranks.values()) != len(ranks) - 1:
        raise RefusedPickle("its ranks have gaps")


def _check_merges(ranks: dict[bytes, int]) -> None:
    """Raise RefusedPickle unless each token is text joined from two tokens of lower rank."""
    if sum(len(token) ** 2 for token in ranks) > MOST_WORK:
        raise RefusedPickle("its tokens are too long")
    for token, rank in ranks.items():
        if len(token) > 1 and not (_is_part_of_text(token) and _is_merge(token, rank, ranks)):
            raise RefusedPickle(f"its token {reprlib.repr(token)} cannot come from training")


def _is_part_of_text(token: bytes) -> bool:
    """True if this is UTF-8, apart from a truncated character at either end."""
    whole = token.lstrip(CONTINUATION)
    try:
        codecs.utf_8_decode(whole, "strict", False)  # False: more bytes may follow
    except UnicodeDecodeError:
        return False
    return len(token) - len(whole) <= 3


def _is_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> bool:
    """True if the token is the concatenation of two tokens of lower rank."""
    return any(
        ranks.get(token[:cut], rank) < rank and ranks.get(token[cut:], rank) < rank
        for cut in range(1, len(token))
    )
