"""Sanitizing of untrusted text before it reaches a terminal or a log line.

    visible("a\x1b[2Jb")            # "a␛[2Jb"
    one_line("first\nsecond")       # "first⏎second"
    safe_json({"key": "\x9b2J"})    # '{"key": "\\u009b2J"}', which loads to the same document

Keys, paths, completions, rows, templates and messages of libraries can contain any character. An allow-list
passes printable Unicode characters, spaces, and the joiners that Persian, Indic scripts and emoji need. All
others are shown as visible text without effect: control characters, terminal sequences of 7 and 8 bits, line
and paragraph separators, direction changes, zero-width characters, halves of surrogate pairs.

`guarded_output` applies this to everything the process writes to stdout and stderr, including libraries and
tracebacks. A rich console bypasses it and sanitizes the text that it renders itself (cli/terminal.py).
"""

import json
import math
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO, cast

JOINERS = "\u200c\u200d"
_SUSPECTS = re.compile(r"[^\x20-\x7e]")


def visible(text: str, keep: str = "\n\t") -> str:
    """`text` with a symbol (␛) or escape (\\u202e) for characters not on the list, except those in `keep`."""
    return _SUSPECTS.sub(lambda found: found[0] if found[0] in keep else _shown(found[0]), text)


def well_formed(text: str) -> str:
    """`text` with U+FFFD for each lone half of a surrogate pair, so that it can be encoded."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def one_line(text: str) -> str:
    """`text` as one line: line breaks become ⏎, tabs become spaces."""
    return visible(text.strip().replace("\r\n", "\n").replace("\t", " "), keep="")


def safe_json(document: Any, indent: int | None = None) -> str:
    """JSON of a document, with escapes for the characters that `visible` replaces.

    It loads to the same document, lone surrogates included, except that NaN and infinity become null.
    """
    try:
        text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(document), indent=indent, ensure_ascii=False)
    return _SUSPECTS.sub(lambda found: found[0] if _passes(found[0]) else json.dumps(found[0])[1:-1], text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def safe_toml(text: str) -> str:
    """TOML with escapes, inside its strings, for the characters that `visible` replaces."""
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


def quoted(name: object) -> str:
    """A name quoted as one word of a shell command, so that it can be copied from a terminal.

    Characters that `visible` would replace are escaped in the $'…' of bash and zsh.
    """
    text = str(name)
    if visible(text, keep="") == text:
        return shlex.quote(text)
    return "$'" + "".join(map(_for_a_shell, text)) + "'"


def _for_a_shell(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char if _is_harmless(char) and char not in "'\\`" else _escape(char)


# --- the streams of a process ------------------------------------------------------------------------


class GuardedStream:
    """A text stream that applies `visible` to everything written; all else is passed to the stream."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # a rich console writes here, since it needs terminal sequences

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)

    def write(self, text: str) -> int:
        if self is sys.stdout and self is not sys.stderr and _ASIDE.get():
            return sys.stderr.write(text)
        self.rich_proxied_file.write(visible(text.replace("\r\n", "\n")))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Flush only: a user's code may close stdout, and results are still to be written."""
        self.rich_proxied_file.flush()


_ASIDE: ContextVar[bool] = ContextVar("aside", default=False)


@contextmanager
def aside() -> Iterator[None]:
    """Within the block, what this thread or task prints goes to stderr: stdout is reserved for results.

    Other threads are not affected, unlike with `contextlib.redirect_stdout`: a tool may never return.
    """
    before = _ASIDE.set(True)
    try:
        yield
    finally:
        _ASIDE.reset(before)


def guard_output() -> None:
    """Replace stdout and stderr of this process by GuardedStreams."""
    sys.stdout, sys.stderr = _guarded(sys.stdout), _guarded(sys.stderr)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Replace stdout and stderr by GuardedStreams within the block."""
    before = sys.stdout, sys.stderr
    guard_output()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _guarded(stream: TextIO) -> TextIO:
    if stream is None or isinstance(stream, GuardedStream):  # None: a process may have no streams
        return stream
    return cast(TextIO, GuardedStream(stream))
