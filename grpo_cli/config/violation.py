"""What a rule between keys finds, and what a rule is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from grpo_cli.config.schema import Config


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A rule that a configuration breaks: the keys it rests on, what is wrong, what to write.

    `trouble`: the guide's chapter that explains it.
    """

    keys: tuple[str, ...]
    message: str
    cure: str
    severity: Literal["error", "warning"] = "error"
    trouble: str = "contradiction"


Rule = Callable[[Config], Iterator[Violation]]


def is_meant(config: Config, key: str) -> bool:
    """The key has another value than its default, so that a file with every key warns of nothing.

    Nobody can tell a default that a person wrote from one that `config init` or a run wrote.
    """
    return bool(getattr(config, key) != Config.model_fields[key].default)
