"""Makes the environment of each rollout of `environment = …`, with its tools if it has any."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.environments.protocol import Environment
from grpo_cli.environments.session import Limits, Render, Session
from grpo_cli.environments.suffix import check_template, suffix_for
from grpo_cli.environments.table import Environments, EnvironmentSource
from grpo_cli.environments.tool_calls import ToolParser, parser_for
from grpo_cli.environments.tool_environment import ToolEnvironment
from grpo_cli.environments.tooling import Tooling
from grpo_cli.environments.tools import Tool
from grpo_cli.environments.user import UserEnvironment, ask
from grpo_cli.errors import ToolError
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import Example


@dataclass(frozen=True)
class Dialogue:
    """An environment's tools as its prompts show them, the parser of calls, and the rendering of answers."""

    schemas: list[dict[str, Any]]
    parser: ToolParser | None = None  # None: it has no tools
    render: Render | None = None  # None: it answers no turns


@dataclass
class EnvironmentMaker:
    """Makes environments for examples; `prepare` checks first that the model can use them.

    Each environment has its own dialogue: a prompt shows the tools of its own environment alone, so that two
    may have tools of the same name. `parser` and `render`: for all of them, where a person plays.
    """

    config: Config
    tokenizer: Tokenizer
    environments: Environments
    limits: Limits
    parser: ToolParser | None = None
    render: Render | None = None
    dialogues: dict[str, Dialogue] = field(default_factory=dict)

    def prepare(self) -> Tooling:
        """The tooling of the run. Raises ToolError or ModelError if the model cannot use an environment."""
        dialogues = [self.dialogue(source) for source in self.environments.configured]
        schemas = [schema for one in dialogues for schema in one.schemas]
        return Tooling(self.session, schemas, self.begin, self.schemas_for)

    def schemas_for(self, example: Example) -> list[dict[str, Any]]:
        """The tools of the example's environment."""
        return self.dialogue(self.environments.source_for(example.columns)).schemas

    def dialogue(self, source: EnvironmentSource) -> Dialogue:
        """An environment's dialogue, made on first use: a column may name one that no key names."""
        if source.name not in self.dialogues:
            self.dialogues[source.name] = self.dialogue_of(source.make(self.tokenizer))
        return self.dialogues[source.name]

    def dialogue_of(self, environment: Environment) -> Dialogue:
        """Raises ModelError if the model has no syntax for the environment's calls or answers."""
        schemas = [tool.schema for tool in tools_of(environment)]
        if self.render is not None:
            return Dialogue(schemas, self.parser, self.render)
        parser = parser_for(self.tokenizer, self.config.tool_parser, schemas) if schemas else None
        speaks = answers_texts(environment)
        if not speaks and parser is None:
            return Dialogue(schemas)
        check_template(self.tokenizer, schemas, with_user=speaks)
        return Dialogue(schemas, parser, suffix_for(self.tokenizer, schemas).after)

    def begin(self, example: Example) -> Example:
        """The example with the text of the environment's `reset` after its last user message, as in TRL."""
        columns = deepcopy(example.columns)  # an environment may change them
        text = ask(self.environments.make(columns, self.tokenizer), "reset", columns)
        return with_text(example, text) if text else example

    def session(self, example: Example) -> Session:
        """The session of one completion of an example that `begin` has prepared."""
        source = self.environments.source_for(example.columns)
        environment, dialogue = source.make(self.tokenizer), self.dialogue(source)
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
            assert dialogue.parser is not None
            config = self.config
            environment.tools = ToolEnvironment(
                tools, dialogue.parser, max_tool_calls=config.max_tool_calls, tool_timeout=config.tool_timeout
            )
        return Session(environment, self.limits, dialogue.render)


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
