"""Makes each rollout's environment, as the configuration says.

tooling = tooling_of(config, policy.tokenizer)      # raises for tools that the model cannot use
tooling.schemas_for(example)                        # for its prompt
session = tooling.make_session(example)             # None: the completion has no environment
"""

from grpo_cli.config.schema import Config
from grpo_cli.environments.calculator import Calculator
from grpo_cli.environments.make_environment import EnvironmentMaker
from grpo_cli.environments.session import Limits, Session
from grpo_cli.environments.suffix import check_template, suffix_for
from grpo_cli.environments.table import Environments
from grpo_cli.environments.tool_calls import parser_for
from grpo_cli.environments.tool_environment import ToolEnvironment
from grpo_cli.environments.tooling import NO_TOOLS, Tooling
from grpo_cli.environments.tools import load_tools
from grpo_cli.errors import ModelError
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.types import Example


def tooling_of(config: Config, tokenizer: Tokenizer, environments: Environments | None = None) -> Tooling:
    """The tools or the environment of a configuration.

    Raises ToolError or ModelError for those that cannot be used.
    """
    limits = Limits(max_turns=config.max_turns, max_result_tokens=config.max_result_tokens)
    if environments is not None:
        return EnvironmentMaker(config, tokenizer, environments, limits).prepare()
    files = [name for name in config.tools if RewardSpec.parse(name).is_file]
    if files:
        return tooling_of_files(config, tokenizer, files, limits)
    if isinstance(tokenizer, NanochatTokenizer) and config.tools:
        return Tooling(lambda _: Session(Calculator(tokenizer), limits))
    if "calculator" in config.tools:
        raise ModelError(
            "tools = [\"calculator\"] is nanochat's: this model's tokenizer has no <|python_start|>",
            "write `tools = []`, or choose a nanochat model",
            trouble="tools",
        )
    return NO_TOOLS


def tooling_of_files(config: Config, tokenizer: Tokenizer, files: list[str], limits: Limits) -> Tooling:
    """The user's own functions as tools."""
    tools = load_tools(files)
    schemas = [tool.schema for tool in tools]
    check_template(tokenizer, schemas)
    parser = parser_for(tokenizer, config.tool_parser, schemas)
    render = suffix_for(tokenizer, schemas).after

    def make(_: Example) -> Session:
        environment = ToolEnvironment(
            tools, parser, max_tool_calls=config.max_tool_calls, tool_timeout=config.tool_timeout
        )
        return Session(environment, limits, render)

    return Tooling(make, schemas)
