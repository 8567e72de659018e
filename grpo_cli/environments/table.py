"""The table of embedded environments, and the environments that a run uses.

    environments = load_environments(["guess", "my_env.py:Wordle"])
    environments.make({"environment": "Wordle", "word": "house"}, tokenizer)    →  a new UserEnvironment
    environments.make({"answer": 5}, tokenizer)                                 →  a new GuessTask: the first

A dataset's column `environment` mixes tasks: it names an embedded environment or one of the configuration's.
It can name no file: only a configuration makes code run. To add an environment, write it in embedded/ and add
a line to EMBEDDED.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from grpo_cli.config.rules_of_environments import VERIFIERS
from grpo_cli.environments.embedded import calculator, guess, search
from grpo_cli.environments.protocol import Environment
from grpo_cli.environments.user import construct
from grpo_cli.environments.user_class import load_class
from grpo_cli.errors import ToolError
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.types import Example

COLUMN = "environment"

MakeExamples = Callable[[str, int, int], list[Example]]  # (split, count, seed)


@dataclass(frozen=True)
class EnvironmentSource:
    """An environment's class, and the generator of its examples if it has one."""

    name: str
    cls: type
    generator: MakeExamples | None = None

    @property
    def has_reward(self) -> bool:
        """True if its class has a reward of its own."""
        found = getattr(self.cls, "get_reward", None)
        return found is not None and found is not Environment.get_reward

    def make(self, tokenizer: Tokenizer) -> Environment:
        """A new environment for one rollout. Raises ToolError if a user's constructor fails."""
        return construct(self.cls, tokenizer)

    def examples(self, split: str, count: int, seed: int) -> list[Example]:
        """Examples for a run without a dataset: the generator's, or episodes with columns of their own."""
        if self.generator:
            return self.generator(split, count, seed)
        return [episode(split, number, seed) for number in range(count)]


def episode(split: str, number: int, seed: int) -> Example:
    """An example whose whole text `reset` gives. A group's rollouts are given the same columns."""
    return Example(
        messages=[{"role": "user", "content": ""}],
        answer="",
        columns={"split": split, "episode": number, "seed": seed},
    )


EMBEDDED = {
    source.name: source
    for source in (
        EnvironmentSource("calculator", calculator.CalculatorTask, calculator.examples),
        EnvironmentSource("guess", guess.GuessTask, guess.examples),
        EnvironmentSource("search", search.SearchTask, search.examples),
    )
}


@dataclass(frozen=True)
class Environments:
    """The environments of a run by name; the first of the configuration is the default."""

    sources: dict[str, EnvironmentSource]
    configured: list[EnvironmentSource]

    @property
    def default(self) -> EnvironmentSource:
        """The environment of examples that name none."""
        return self.configured[0]

    def source_for(self, columns: dict[str, Any]) -> EnvironmentSource:
        """The environment of an example. Raises ToolError if its column names an unknown one."""
        name = columns.get(COLUMN)
        if name is None or name == "":
            return self.default
        if not isinstance(name, str) or name not in self.sources:
            known = f"its environments: {', '.join(self.sources)}; others must be in the key `environment`"
            raise ToolError(
                f"Unknown environment in the column `{COLUMN}`: {name}",
                nearest(str(name), self.sources) + known,
            )
        return self.sources[name]

    def make(self, columns: dict[str, Any], tokenizer: Tokenizer) -> Environment:
        """A new environment for one rollout of an example; it has yet to be reset."""
        return self.source_for(columns).make(tokenizer)


def load_environments(entries: Sequence[str]) -> Environments | None:
    """The environments that the key `environment` names, and the embedded ones, which the column may name.

    None without entries. Raises ToolError for an entry that cannot be used.
    """
    if not entries:
        return None
    loaded = [load_environment(entry) for entry in entries]
    return Environments({**EMBEDDED, **{source.name: source for source in loaded}}, loaded)


def load_environment(entry: str) -> EnvironmentSource:
    """The environment of one entry: `name` or `path/to/file.py:Class`."""
    spec = parse(entry)
    if spec.is_file:
        return EnvironmentSource(spec.name, load_class(spec))
    if spec.name not in EMBEDDED:
        raise ToolError(
            f"Unknown environment: {entry}",
            f"{nearest(spec.name, EMBEDDED)}embedded environments: {', '.join(EMBEDDED)}; "
            "your own: `path/to/file.py:Class`",
        )
    return EMBEDDED[spec.name]


def parse(entry: str) -> RewardSpec:
    """An entry's file and name, by the grammar of rewards."""
    if entry.startswith(VERIFIERS):
        raise ToolError(
            f"Environments of verifiers are not supported: {entry}",
            "write a class with `reset`, `respond` and `get_reward` that uses its dataset and rubric: "
            "`path/to/file.py:Class`",
        )
    return RewardSpec.parse(entry)


def code_files(entries: Iterable[str]) -> list[Path]:
    """The user files that entries name."""
    return [spec.path for spec in map(RewardSpec.parse, entries) if spec.is_file]


def nearest(name: str, known: Iterable[str]) -> str:
    """The start of a hint that names the nearest known name; empty if none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"did you mean `{near[0]}`? " if near else ""
