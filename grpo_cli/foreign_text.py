"""Text that is not ours on its way to a terminal or a log line: everything goes through here.

    visible("a\x1b[2Jb")            # "a␛[2Jb"
    one_line("first\nsecond")       # "first⏎second"
    safe_json({"key": "\x9b2J"})    # '{"key": "\\u009b2J"}', which loads to the same document

Keys, paths, completions, rows, templates and what libraries say can hold any character. An allow-list
decides: what Unicode counts as printable, spaces, and the joiners that Persian, Indic scripts and emoji need.
Everything else is shown and does nothing: control characters, terminal sequences of 7 and 8 bits, line and
paragraph separators, what turns the direction of writing, what has no width, halves of surrogate pairs.
"""

import json
import re
import unicodedata
from typing import Any

JOINERS = "\u200c\u200d"
_SUSPECTS = re.compile(r"[^\x20-\x7e]")


def visible(text: str, keep: str = "\n\t") -> str:
    """`text` with a picture (␛) or an escape (\\u202e) for what is not on the list; `keep` stays as it is."""
    return _SUSPECTS.sub(lambda found: found[0] if found[0] in keep else _shown(found[0]), text)


def one_line(text: str) -> str:
    """`text` as one line: line breaks are ⏎, tabs spaces."""
    return visible(text.strip().replace("\r\n", "\n").replace("\t", " "), keep="")


def safe_json(document: Any, indent: int | None = None) -> str:
    """JSON of a document, readable where the text is, with escapes for what `visible` does not let pass.

    Loads to the same document, lone surrogates included. Raises ValueError for NaN and infinities.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    return _SUSPECTS.sub(lambda found: found[0] if _passes(found[0]) else json.dumps(found[0])[1:-1], text)


def safe_toml(text: str) -> str:
    """TOML with escapes inside its strings for what `visible` does not let pass."""
    return _SUSPECTS.sub(lambda found: found[0] if _passes(found[0]) else _escape(found[0]), text)


def _passes(char: str) -> bool:
    return char in "\n\t" or _is_harmless(char)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or char in JOINERS or unicodedata.category(char) == "Zs"


def _shown(char: str) -> str:
    code = ord(char)
    if _is_harmless(char):
        return char
    if char == "\n":
        return "⏎"
    if code < 0x20 or code == 0x7F:
        return chr(0x2400 + code) if code < 0x20 else "␡"
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a path that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return _escape(char)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
