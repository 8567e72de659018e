"""The tools or the environment of a run, as its prompts and completions use them.

tooling = tooling_of(config, tokenizer)      # make.py
tooling.begin(example)                       # the example, with what an environment says first
tooling.schemas_for(example)                 # the tools that its prompt shows
tooling.make_session(example)                # the environment of one completion; None: it has none
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from grpo_cli.environments.session import Session
from grpo_cli.types import Example

SessionMaker = Callable[[Example], Session | None]


def no_environment(example: Example) -> None:
    """No environment."""


def unchanged(example: Example) -> Example:
    """The example as it is."""
    return example


@dataclass(frozen=True)
class Tooling:
    """The tools or the environment of a run, for its prompts and its completions."""

    make_session: SessionMaker = no_environment
    schemas: list[dict[str, Any]] = field(default_factory=list)  # of all tools
    begin: Callable[[Example], Example] = unchanged  # adds what an environment says first
    choose: Callable[[Example], list[dict[str, Any]]] | None = None  # None: every prompt shows all tools

    def schemas_for(self, example: Example) -> list[dict[str, Any]]:
        """The tools that the example's prompt shows."""
        return self.choose(example) if self.choose else self.schemas


NO_TOOLS = Tooling()
