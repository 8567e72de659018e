"""The tools or the environment of a run, as its prompts and completions use them.

tooling = tooling_of(config, tokenizer)      # make.py
tooling.begin(example)                       # the example, with what an environment says first
tooling.schemas                              # for its prompt
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
    schemas: list[dict[str, Any]] = field(default_factory=list)  # of the tools that prompts show
    begin: Callable[[Example], Example] = unchanged  # adds what an environment says first


NO_TOOLS = Tooling()
