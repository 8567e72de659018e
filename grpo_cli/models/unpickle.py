"""Read the one object that nanochat pickles, a tiktoken encoding, without running anything.

A pickle is a program: plain `pickle.load` executes whatever the file names. Here the file may name
two things only, `tiktoken.core.Encoding`, whose state is captured as data, and `_codecs.encode`,
which protocol 2 uses to write bytes as text. Everything else is refused by its name, unexecuted.
"""

import reprlib
from pathlib import Path
from typing import Any

from grpo_cli.models.pickle_reader import RefusedPickle, read_pickle

FIELDS = {"name": str, "pat_str": str, "mergeable_ranks": dict, "special_tokens": dict}
LARGEST = 64 << 20  # bytes; 65536 tokens take 1 MB
NO_TOKEN = (1 << 32) - 1  # tiktoken's ids are unsigned, and this one means none


class _CapturedEncoding:
    """Stands in for tiktoken.core.Encoding and keeps the state that the pickle sets."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _latin1_bytes(text: Any, codec: Any) -> bytes:
    """What protocol 2 means by `_codecs.encode(text, "latin1")`, and nothing else that name could do."""
    if not isinstance(text, str) or codec != "latin1":
        raise RefusedPickle(f"it calls _codecs.encode with the codec {reprlib.repr(codec)}")
    return text.encode("latin1")


ALLOWED = {
    "tiktoken.core.Encoding": _CapturedEncoding,
    "_codecs.encode": _latin1_bytes,
}


def encoding_fields(path: Path) -> dict[str, Any]:
    """name, pat_str, mergeable_ranks and special_tokens of the encoding pickled in a file.

    Raises RefusedPickle for any other content, OSError where the file cannot be read.
    """
    if path.stat().st_size > LARGEST:
        raise RefusedPickle(f"it is larger than {LARGEST >> 20} MB")
    return _checked(read_pickle(path.read_bytes(), ALLOWED, "which a tokenizer has no use for"))


def _checked(found: Any) -> dict[str, Any]:
    """The captured state, if it is what tiktoken writes."""
    if not isinstance(found, _CapturedEncoding):
        raise RefusedPickle(f"it holds a {type(found).__name__}, not a tiktoken encoding")
    state = found.state
    if isinstance(state, str):
        raise RefusedPickle(
            f"it only names an encoding ({reprlib.repr(state)}) that this machine would have to know"
        )
    if not isinstance(state, dict) or set(state) != set(FIELDS):
        raise RefusedPickle(f"its encoding must have exactly the fields {', '.join(FIELDS)}")
    for field, kind in FIELDS.items():
        if not isinstance(state[field], kind):
            raise RefusedPickle(f"its field {field} is no {kind.__name__}")
    _check_tokens("mergeable_ranks", state["mergeable_ranks"], bytes)
    _check_tokens("special_tokens", state["special_tokens"], str)
    _check_ids(state["mergeable_ranks"], state["special_tokens"])
    return state


def _check_tokens(field: str, tokens: dict[Any, Any], kind: type) -> None:
    for token, rank in tokens.items():
        if not isinstance(token, kind) or type(rank) is not int or not 0 <= rank < NO_TOKEN:
            raise RefusedPickle(f"its field {field} holds {reprlib.repr(token)}: {reprlib.repr(rank)}")


def _check_ids(ranks: dict[bytes, int], special: dict[str, int]) -> None:
    """tiktoken aborts on tokens that share an id and on a byte that has none."""
    ids = [*ranks.values(), *special.values()]
    if len(set(ids)) != len(ids):
        raise RefusedPickle("several of its tokens have the same id")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise RefusedPickle(f"it has no token for the byte {missing[0]}")
