"""The environment or the tools to try, and the example to try them on.

    config = with_entries(config, ["my_env.py:Wordle"])                 # or ["my_tools.py:lookup"]
    environments = load_environments(config.environments)
    example_to_try(config, environments, {"word": "house"}, row=0)

Entries are told apart by their files, which are read for that and not run: a class is an environment, a
function a tool.
"""

import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.data.load import load_examples
from grpo_cli.data.rows import Tell, silence, with_system
from grpo_cli.environments.make import tooling_of
from grpo_cli.environments.protocol import Environment
from grpo_cli.environments.table import Environments, code_files, load_environments
from grpo_cli.environments.tooling import Tooling
from grpo_cli.errors import DataError, ToolError
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.types import Example
from grpo_cli.user_source import names_of_file
from grpo_cli.words import plural

TOOLS, ENVIRONMENT = "tools", "environment"


def with_entries(config: Config, entries: Sequence[str]) -> Config:
    """The configuration with these entries as its environment or its tools; unchanged without entries.

    Raises ToolError for a mixture of both.
    """
    if not entries:
        return config
    kinds = {entry: kind_of(RewardSpec.parse(entry)) for entry in entries}
    if len(set(kinds.values())) > 1:
        words = {ENVIRONMENT: "class", TOOLS: "function"}
        told = ", ".join(f"{entry} ({words[kind]})" for entry, kind in kinds.items())
        raise ToolError(
            f"An environment and tools at once: {told}",
            "try them one by one: an environment's tools are its own public methods",
        )
    if ENVIRONMENT in kinds.values():
        return config.model_copy(update={"environment": ",".join(entries), "tools": ["auto"]})
    return config.model_copy(update={"tools": list(entries), "environment": ""})


def kind_of(spec: RewardSpec) -> str:
    """`tools` for a function in a file, else `environment`; a name made at run time counts by its case."""
    if not spec.is_file:
        return ENVIRONMENT
    try:
        names = names_of_file(spec.path) or {}
    except SyntaxError:  # reported with its line when the file is run
        names = {}
    kind = names.get(spec.name, "")
    if not spec.name:
        kind = "class" if "class" in names.values() else "function" if names else "class"
    if kind:
        return TOOLS if kind == "function" else ENVIRONMENT
    return ENVIRONMENT if spec.name[:1].isupper() else TOOLS


def files_of(entries: Sequence[str], config: Config) -> list[Path]:
    """The user's files among these entries, or else among those of a configuration."""
    return code_files(entries or [*config.tools, *config.environments])


def example_to_try(
    config: Config,
    environments: Environments | None,
    columns: dict[str, Any],
    row: int = 0,
    *,
    from_dataset: bool = False,
    prompt: str | None = None,
    tell: Tell = silence,
) -> Example:
    """One example: of the dataset, or made by the environment; its columns replaced by `columns`.

    `row`: its number, from 0. `prompt`: the text of the user's message in place of the example's. Raises
    DataError for a row that is not there.
    """
    if from_dataset:
        examples = load_examples(config, config.train_split, tell)
        if row >= len(examples):
            raise DataError(
                f"Row {row} is not there: the split {config.train_split} has {plural(len(examples), 'row')}",
                f"write `--row {len(examples) - 1}` or less; the first row is 0",
            )
        example = examples[row]
    elif environments is not None:
        example = environments.default.examples(config.train_split, row + 1, config.seed)[row]
        example = replace(example, messages=with_system(example.messages, config.system_prompt))
    else:
        messages = with_system([{"role": "user", "content": ""}], config.system_prompt)
        example = Example(messages=messages, answer="")
    if prompt is not None:
        message = {"role": "user", "content": prompt}
        example = replace(example, messages=[*example.messages[:-1], message], prompt_text=prompt)
    return replace(example, columns={**example.columns, **columns})


def of_prompts(config: Config, tokenizer: Tokenizer) -> tuple[Tooling, dict[str, Any]]:
    """The tooling of a configuration for prompts without an example, and columns to reset it with.

    Raises ToolError and ModelError for tools or an environment that cannot be used.
    """
    environments = load_environments(config.environments)
    tooling = tooling_of(config, tokenizer, environments)
    if environments is None:
        return tooling, {}
    return tooling, environments.default.examples(config.eval_split, 1, config.seed)[0].columns


def read_columns(texts: Iterable[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as columns. A value that is JSON is read as such, any other is a text.

    Raises ValueError for a text without a name or an equals sign.
    """
    columns = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ValueError(text)
        try:
            columns[name.strip()] = json.loads(value)
        except (ValueError, RecursionError):
            columns[name.strip()] = value
    return columns


def unread_columns(environments: Environments | None, example: Example, given: Iterable[str]) -> list[str]:
    """Those of the given columns that the environment's `reset` does not take: slips, probably."""
    if environments is None:
        return list(given)
    cls = environments.source_for(example.columns).cls
    if issubclass(cls, Environment):  # takes them all
        return []
    parameters = inspect.signature(cls.reset).parameters.values()  # type: ignore[attr-defined]
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return []
    return [name for name in given if name not in {one.name for one in parameters}]
