"""Makes the environment of each rollout of `environment = …`, with its tools if it has any."""

from copy import deepcopy
from dataclasses import dataclass, replace

from grpo_cli.config.schema import Config
from grpo_cli.environments.protocol import Environment
from grpo_cli.environments.session import Limits, Render, Session
from grpo_cli.environments.suffix import check_template, suffix_for
from grpo_cli.environments.table import Environments
from grpo_cli.environments.tool_calls import ToolParser, parser_for
from grpo_cli.environments.tool_environment import ToolEnvironment
from grpo_cli.environments.tooling import Tooling
from grpo_cli.environments.tools import Tool
from grpo_cli.environments.user import UserEnvironment, ask
from grpo_cli.errors import ToolError
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import Example


@dataclass
class EnvironmentMaker:
    """Makes environments for examples; `prepare` checks first that the model can use them."""

    config: Config
    tokenizer: Tokenizer
    environments: Environments
    limits: Limits
    parser: ToolParser | None = None
    render: Render | None = None

    def prepare(self) -> Tooling:
        """The tooling of the run. Raises ToolError or ModelError if the model cannot use an environment."""
        configured = self.environments.configured
        made = [source.make(self.tokenizer) for source in configured]
        schemas = [tool.schema for one in made for tool in tools_of(one)]
        if schemas:
            self.parser = parser_for(self.tokenizer, self.config.tool_parser, schemas)
        if any(answers_texts(one) for one in made) or schemas:
            check_template(self.tokenizer, schemas, with_user=any(map(answers_texts, made)))
            self.render = suffix_for(self.tokenizer, schemas).after
        return Tooling(self.session, schemas, self.begin)

    def begin(self, example: Example) -> Example:
        """The example with the text of the environment's `reset` after its last user message, as in TRL."""
        columns = deepcopy(example.columns)  # an environment may change them
        text = ask(self.environments.make(columns, self.tokenizer), "reset", columns)
        return with_text(example, text) if text else example

    def session(self, example: Example) -> Session:
        """The session of one completion of an example that `begin` has prepared."""
        environment = self.environments.make(example.columns, self.tokenizer)
        text = ask(
            environment, "reset", deepcopy(example.columns)
        )  # its rollouts share them, with the rewards
        if text and not str(example.messages[-1]["content"]).endswith(text):
            raise ToolError(
                "The environment's `reset` returned different texts for one example: "
                f"{text[:80]!r} is not the end of its prompt",
                "completions of a group are compared: let `reset` depend on the columns alone",
            )
        tools = tools_of(environment)
        if tools and isinstance(environment, UserEnvironment):
            assert self.parser is not None
            config = self.config
            environment.tools = ToolEnvironment(
                tools, self.parser, max_tool_calls=config.max_tool_calls, tool_timeout=config.tool_timeout
            )
        return Session(environment, self.limits, self.render)


def tools_of(environment: Environment) -> list[Tool]:
    """The tools of a user's environment: its public methods."""
    if not isinstance(environment, UserEnvironment):
        return []
    where = type(environment.instance).__name__
    return [Tool.of(function, where) for function in environment.tool_functions()]


def answers_texts(environment: Environment) -> bool:
    """True if the environment may answer a turn with a user message."""
    if isinstance(environment, UserEnvironment):
        return hasattr(environment.instance, "respond")
    return type(environment).respond is not Environment.respond


def with_text(example: Example, text: str) -> Example:
    """The example with a text after its last user message; with a message of its own if it has none."""
    *before, last = example.messages or [{"role": "user", "content": ""}]
    if last["role"] != "user":
        before, last = [*before, last], {"role": "user", "content": ""}
    return replace(example, messages=[*before, {**last, "content": f"{last['content']}{text}"}])
