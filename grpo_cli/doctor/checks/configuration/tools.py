"""The check of a configuration's tools and environment with its model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from grpo_cli.config.fields import toml_value
from grpo_cli.doctor.checks.model.tokenizer import NOT_LOADED, loaded
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.tokenizer import is_nanochat
from grpo_cli.errors import GrpoError
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.words import plural

if TYPE_CHECKING:
    from grpo_cli.config.schema import Config
    from grpo_cli.environments.table import Environments
    from grpo_cli.models.tokenizer import Tokenizer

NOTHING = "the configuration names no tools and no environment"
NOT_NAMED = "code that only a run's folder names is not run: name its configuration by `--config`"


def tools(context: Context) -> Iterator[Finding]:
    """The tools and the environment load, and the model can use them in conversations of several turns."""
    config = context.config
    if config is None:
        return
    entries = [*config.tools, *config.environments]
    if not [entry for entry in entries if entry != "auto"]:
        if "tools" in context.asked:
            yield skipped(NOTHING)
        return
    if context.config_name is None and any(RewardSpec.parse(entry).is_file for entry in entries):
        yield skipped(NOT_NAMED)
        return
    try:
        yield from findings(context, config)
    except GrpoError as problem:
        yield error(problem.message, problem.hint)


def findings(context: Context, config: "Config") -> Iterator[Finding]:
    """The code by itself, then with the model. Raises the GrpoError that training would raise."""
    from grpo_cli.environments.table import load_environments
    from grpo_cli.environments.tools import load_tools

    environments = load_environments(config.environments)
    names = [source.name for source in environments.configured] if environments else []
    if environments is None:
        names = [tool.name for tool in load_tools(files_of(config))] or config.tools
    yield ok(f"{', '.join(names)}: {'loads' if len(names) == 1 else 'all load'}", names=names)
    yield from unused_rewards(config, environments)
    tokenizer = loaded(context) if context.model_folder else None
    if tokenizer is None:
        yield skipped(NOT_LOADED if context.model_folder else "the model is not on this machine")
        return
    yield with_model(config, tokenizer, environments)


def unused_rewards(config: "Config", environments: "Environments | None") -> Iterator[Finding]:
    """Environments whose own reward counts nowhere."""
    used = {*config.reward_functions, config.eval_reward}
    names = [source.name for source in environments.configured if source.has_reward] if environments else []
    if names and "environment" not in used:
        yield warning(
            f"{', '.join(names)}: `get_reward` is not used: reward_functions = "
            f"{toml_value(config.reward_functions)}",
            'write `reward_functions = ["environment"]`, or add `"environment"` to yours',
        )


def files_of(config: "Config") -> list[str]:
    """The entries of `tools` that are functions in files."""
    return [entry for entry in config.tools if RewardSpec.parse(entry).is_file]


def with_model(config: "Config", tokenizer: "Tokenizer", environments: "Environments | None") -> Finding:
    """The syntax of the model's calls, and the proof of its chat template."""
    from grpo_cli.environments.make import tooling_of
    from grpo_cli.environments.tool_calls import parser_for

    schemas = tooling_of(config, tokenizer, environments).schemas  # refuses what training would refuse
    numbers: dict[str, Any] = {"tools": [schema["function"]["name"] for schema in schemas]}
    if not schemas:
        how = "nanochat's chat format" if is_nanochat(tokenizer) else "the chat template"
        return ok(f"no tool syntax is needed; {how} takes the answers as they come", **numbers)
    parser = parser_for(tokenizer, config.tool_parser, schemas).name
    source = "named by `tool_parser`" if config.tool_parser else "chosen for its chat template"
    return ok(
        f"{plural(len(schemas), 'tool')} in the prompt ({', '.join(numbers['tools'])}); calls are read by "
        f"{parser}, {source}; the template leaves earlier turns as they are",
        parser=parser,
        **numbers,
    )
