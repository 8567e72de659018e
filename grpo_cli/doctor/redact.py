"""Redaction of text for publication: removes tokens, passwords, user names and home folders.

    Redaction.of(environment, home="/home/ada", user="ada", host="engine").apply("/home/ada/x hf_abc…")
    # "~/x ***"

Anything that looks like a secret is removed, even if it is not one.
"""

import getpass
import json
import platform
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

HIDDEN = "***"
SECRET_NAME = re.compile(r"token|secret|passw|api_?key|access_?key|credential|auth", re.IGNORECASE)
SECRET = re.compile(
    r"hf_[A-Za-z0-9]{6,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{8,}|github_pat_\w{8,}|AKIA[A-Z0-9]{12,}"
    r"|\beyJ[\w-]{5,}\.[\w-]+\.[\w-]*"  # a JSON web token
    r"|(?<=bearer )[^\s\"',]+|(?<=basic )[^\s\"',]+"
    r"|(?<=://)[^\s/\"']+(?=@)",  # user and password of an address, or the token in their place
    re.IGNORECASE,
)
# E-mail addresses, and remains of `user:password@host` in a library's message. A match starts only at the
# beginning of a word, so the time is linear in the text's length.
_WORD = r"[^\s@'\"`<>()\[\]{},;|/*\\]"
ADDRESS = re.compile(
    rf"(?<!{_WORD}){_WORD}+@(?:(?:[\w-]+\.)+[A-Za-z]{{2,}}|localhost\b|\d+\.\d+\.\d+\.\d+)"
    rf"|(?<!{_WORD})(?:(?!:){_WORD})+:{_WORD}+@[\w.-]+"
)
# `token = "abc"`, `--api-key abc`, `HF_TOKEN=abc`, `?token=abc`: the value is removed, the name stays. Names
# that are not secret are exempt: `eos_token`, `seconds_per_token`, the check `hub-token`.
_NOT_SECRET = r"(?!(?:[\w-]*_)?(?:eos|bos|pad|unk|sep|cls|mask|end|per)_token\b|hub-token\b)"
_ONE_WORD = r"(?:[\w-]*(?:api[_-]?key|(?:access|private|secret)[_-]?key|secret|token|credentials?)\b)"
_LONG = r"(?:[\w-]*(?:passw(?:or)?d|passphrase|pwd|authorization|cookie)\b)"
_GIVEN = r"\\*[\"']?[ \t]*[=:][ \t]*"
_AFTER_FLAG = r"(?:[\"']?,[ \t]*|[ \t]+)(?!--)"
_QUOTED = r"(\"{3}|'{3})[\s\S]*?\2|\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n])*'?|\\+[\"'][^\"'\n]*[\"']?"


def _assigned(names: str, unquoted: str) -> re.Pattern[str]:
    """Pattern for a name in `names` with its value: quoted, or else matched by `unquoted`."""
    name = rf"(?<![\w-])(?:{_NOT_SECRET}{names}{_GIVEN}|(?=--){names}{_AFTER_FLAG})"
    return re.compile(rf"({name})(?:{_QUOTED}|{unquoted})", re.IGNORECASE)


ASSIGNED = (
    _assigned(_ONE_WORD, r"[^\s\"',&]+"),
    _assigned(_LONG, r"(?:(?!\s--\w)[^\n])+"),  # may contain spaces: ends at the next option or line
)
_NAME = r"[^/\\\s'\":,;]+"  # of a home folder; several words if a separator or a quote ends it
HOMES = re.compile(
    rf"(/Users/|/home/|[A-Za-z]:\\+Users\\+)(?:{_NAME}(?: {_NAME}){{1,3}}(?=[/\\'\"])|{_NAME})"
)
SHORTEST_NAME = 3  # shorter user names occur in ordinary words
COMMON_NAMES = ("root", "user", "admin", "ubuntu", "runner", "localhost")  # identify nobody


@dataclass(frozen=True)
class Redaction:
    """Literal texts to remove with their replacements, longest first; secret patterns always apply."""

    literals: tuple[tuple[str, str], ...]

    @staticmethod
    def of(environment: Mapping[str, str], home: str, user: str, host: str) -> "Redaction":
        """The redaction for a user and a machine, with the secrets in environment variables."""
        secrets = [
            value for name, value in environment.items() if SECRET_NAME.search(name) and len(value) >= 6
        ]
        literals = [(secret, HIDDEN) for secret in secrets]
        literals += [(home.rstrip("/\\"), "~")] if len(home) > 1 else []
        return Redaction(in_order(literals)).also({user}, {host, host.partition(".")[0]})

    def also(self, users: Set[str], machines: Set[str]) -> "Redaction":
        """This redaction with more names, except those that are too short or identify nobody."""
        names = [*((user, "USER") for user in users), *((machine, "HOST") for machine in machines)]
        more = [(n, s) for n, s in names if len(n) >= SHORTEST_NAME and n.lower() not in COMMON_NAMES]
        return Redaction(in_order([*self.literals, *more]))

    @staticmethod
    def here(environment: Mapping[str, str]) -> "Redaction":
        """The redaction for the current user and machine."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a user id without a name, in a container
            user = ""
        return Redaction.of(environment, str(Path.home()), user, platform.node())

    def apply(self, text: str) -> str:
        """The redacted text."""
        for literal, stand_in in self.literals:
            if stand_in == HIDDEN:
                text = text.replace(literal, HIDDEN)
        text = SECRET.sub(HIDDEN, text)
        for pattern in ASSIGNED:
            text = pattern.sub(rf"\g<1>{HIDDEN}", text)
        text = ADDRESS.sub(HIDDEN, text)
        for literal, stand_in in self.literals:
            if stand_in == "~":  # whole folder names only, not the beginning of a longer one
                text = re.sub(rf"(?<![\w.-]){re.escape(literal)}(?![\w-]|\.\w)", "~", text)
        text = HOMES.sub(r"\g<1>USER", text)
        for literal, stand_in in self.literals:
            if stand_in not in (HIDDEN, "~"):  # a name: whole words only
                text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(literal)}(?![A-Za-z0-9])", stand_in, text)
        return text


def in_order(literals: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The literals, plain and as JSON escapes them, longest first."""
    spelled = {(as_spelled, s): None for text, s in literals for as_spelled in (text, in_json(text))}
    return tuple(sorted(spelled, key=lambda pair: -len(pair[0])))


def in_json(text: str) -> str:
    """A text as escaped inside a JSON string, without the quotes."""
    return json.dumps(text)[1:-1]
