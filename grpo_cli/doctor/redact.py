"""Take out of a text what must not be published: tokens, passwords, user names, home folders.

    Redaction.of(environment, home="/home/ada", user="ada", host="engine").apply("/home/ada/x hf_abc…")
    # "~/x ***"

What looks like a secret goes whether it is one or not.
"""

import getpass
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HIDDEN = "***"
SECRET_NAME = re.compile(r"token|secret|passw|api_?key|access_?key|credential|auth", re.IGNORECASE)
SECRET = re.compile(
    r"hf_[A-Za-z0-9]{6,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{8,}|AKIA[A-Z0-9]{12,}"
    r"|(?<=bearer )\S+|(?<=basic )\S+|(?<=://)[^\s/@]+:[^\s/@]*(?=@)",
    re.IGNORECASE,
)
# `token = "abc"`, `--api-key abc`, `HF_TOKEN=abc`: the value goes, the name stays.
ASSIGNED = re.compile(
    r"""((?:[\w-]*(?:api[_-]?key|access[_-]?key|secret|passw(?:or)?d|_token|authorization)\b)["']?\s*[=:]\s*)["']?[^\s"',]+""",
    re.IGNORECASE,
)
HOMES = re.compile(r"(/Users/|/home/|[A-Za-z]:\\Users\\)[^/\\\s'\":]+")
SHORTEST_NAME = 3  # shorter user names are parts of words
COMMON_NAMES = ("root", "user", "admin", "ubuntu", "runner")  # nobody's name, and words of the text


@dataclass(frozen=True)
class Redaction:
    """What is taken out: literal texts with what stands for them, the longest first."""

    literals: tuple[tuple[str, str], ...]

    @staticmethod
    def of(environment: Mapping[str, str], home: str, user: str, host: str) -> "Redaction":
        """The redaction for a person and a machine."""
        secrets = [
            value for name, value in environment.items() if SECRET_NAME.search(name) and len(value) >= 6
        ]
        literals = [(secret, HIDDEN) for secret in secrets]
        literals += [(home, "~")] if len(home) > 1 else []
        return Redaction(tuple(sorted(literals, key=lambda pair: -len(pair[0])))).naming(user, host)

    def naming(self, user: str, host: str) -> "Redaction":
        """The same, and with the names of the user and the machine taken out."""
        names = [(user, "USER"), (host, "HOST"), (host.partition(".")[0], "HOST")]
        known = [(n, s) for n, s in names if len(n) >= SHORTEST_NAME and n.lower() not in COMMON_NAMES]
        return Redaction((*self.literals, *known))

    @staticmethod
    def here(environment: Mapping[str, str]) -> "Redaction":
        """The redaction for who runs this, where."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a user id without a name, in a container
            user = ""
        return Redaction.of(environment, str(Path.home()), user, platform.node())

    def apply(self, text: str) -> str:
        """The text without them."""
        for literal, stand_in in self.literals:
            if stand_in in (HIDDEN, "~"):
                text = text.replace(literal, stand_in)
            else:  # a name: as a word, so that no other word is cut up
                text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(literal)}(?![A-Za-z0-9])", stand_in, text)
        text = SECRET.sub(HIDDEN, text)
        text = ASSIGNED.sub(rf"\g<1>{HIDDEN}", text)
        return HOMES.sub(r"\g<1>USER", text)
