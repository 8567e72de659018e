"""The types of a rule between keys and of its violations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from grpo_cli.config.schema import Config


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A rule that a configuration breaks: the keys involved, the message, and what to write.

    `trouble`: the guide's chapter that explains it.
    """

    keys: tuple[str, ...]
    message: str
    cure: str
    severity: Literal["error", "warning"] = "error"
    trouble: str = "contradiction"


Rule = Callable[[Config], Iterator[Violation]]


def is_meant(config: Config, key: str) -> bool:
    """True if the key differs from its default, so that a file with every key causes no warnings.

    A default that the user wrote cannot be distinguished from one that `config init` or a run wrote.
    """
    return bool(getattr(config, key) != Config.model_fields[key].default)
