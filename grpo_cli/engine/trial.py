"""Load what one trial of an environment or of tools needs, for `grpo env try`.

trial = prepare_trial(Asked(entries=["my_env.py:Wordle"], columns={"word": "house"}), config)
play = trial.play(tell=print)
play.by_hand(["mouse", "house"])
"""

from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx

from grpo_cli.config.schema import Config
from grpo_cli.engine.rollout.chat_template import set_up_template
from grpo_cli.engine.rollout.play import Play, Tell
from grpo_cli.engine.rollout.prompts import Prompt, encode
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.environments.by_hand import tooling_without_model, with_typed_calls
from grpo_cli.environments.make import tooling_of
from grpo_cli.environments.session import Session
from grpo_cli.environments.subject import example_to_try, unread_columns, with_entries
from grpo_cli.environments.table import load_environments
from grpo_cli.environments.tool_environment import tools_in
from grpo_cli.environments.tooling import Tooling
from grpo_cli.environments.user import UserEnvironment
from grpo_cli.errors import ToolError
from grpo_cli.models.find import TINY, adapters_base, check_model_folder, find_model
from grpo_cli.models.load import Policy, load_policy, load_tokenizer
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.types import StopReason
from grpo_cli.untrusted_json import read_object


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The trial that a person asked for, beyond the configuration."""

    entries: list[str] = field(default_factory=list)  # environments, or tools; empty: the configuration's
    model: str | None = None
    by_hand: bool = True  # else the model plays
    columns: dict[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    row: int = 0
    from_dataset: bool = False
    temperature: float | None = None  # None: the configuration's


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One rollout of an environment before its first token."""

    config: Config
    tokenizer: Tokenizer
    policy: Policy | None  # None: a person plays
    has_model: bool  # False: the tokenizer is the embedded model's
    prompt: Prompt
    session: Session
    sampling: Sampling
    unread: list[str]  # given columns that `reset` does not take
    notices: list[str]  # about the model's chat template

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """The tools, as a model is told of them."""
        tools = tools_in(self.session.environment)
        return tools.schemas if tools else []

    @property
    def has_reward(self) -> bool:
        """True if the environment has a reward of its own."""
        environment = self.session.environment
        if isinstance(environment, UserEnvironment):
            return hasattr(environment.instance, "get_reward")
        return not self.schemas

    def play(self, tell: Tell) -> Play:
        """The rollout, ready to be written. `tell`: is told of each turn and each answer."""
        return Play(
            self.tokenizer,
            self.prompt,
            self.session,
            self.sampling,
            tell=tell,
            prefix=self.config.completion_prefix,
        )


def prepare_trial(asked: Asked, config: Config) -> Trial:
    """Load the environment or the tools, the tokenizer or the model, and begin the rollout of one example.

    Raises ToolError for code that cannot be used, ModelError for a model that cannot use it, and DataError
    for an example that is not there.
    """
    config = with_entries(config, asked.entries)
    environments = load_environments(config.environments)
    files = [entry for entry in config.tools if RewardSpec.parse(entry).is_file]
    example = example_to_try(
        config,
        environments,
        asked.columns,
        asked.row,
        from_dataset=asked.from_dataset,
        prompt=asked.prompt,
    )
    policy = None if asked.by_hand or asked.model is None else load_policy(asked.model, config.dtype)
    tokenizer = policy.tokenizer if policy else tokenizer_of(asked.model or "tiny")
    notices = set_up_template(tokenizer, config, [example])
    tooling = _tooling(asked, config, tokenizer, environments, files)
    mx.random.seed(config.seed)
    prompt = encode(example, tokenizer, config, tooling)
    session = tooling.make_session(prompt.example)
    if session is None:
        raise ToolError(
            "There is nothing to try: the configuration has neither tools nor an environment",
            "name one: `grpo env try guess`",
        )
    sampling = Sampling.for_training(config)
    return Trial(
        config=config,
        tokenizer=tokenizer,
        policy=policy,
        has_model=asked.model is not None,
        prompt=prompt,
        session=session,
        sampling=sampling if asked.temperature is None else replace(sampling, temperature=asked.temperature),
        unread=unread_columns(environments, example, asked.columns),
        notices=notices,
    )


def _tooling(
    asked: Asked, config: Config, tokenizer: Tokenizer, environments: Any, files: list[str]
) -> Tooling:
    """As in training if a model is named; without one, any conversation is possible."""
    if asked.model is None and (environments is not None or files):
        return tooling_without_model(config, tokenizer, environments, files)
    tooling = tooling_of(config, tokenizer, environments)
    return with_typed_calls(tooling) if asked.by_hand else tooling


def tokenizer_of(model: str) -> Tokenizer:
    """The tokenizer of a model, whose weights are not read. Raises ModelError."""
    if model == "tiny":
        return load_tokenizer(TINY, {})
    path = find_model(model)
    folder = adapters_base(path) if (path / "adapter_config.json").exists() else path
    check_model_folder(folder)
    return load_tokenizer(folder, read_object(folder / "config.json"))


def ending(play: Play, config: Config) -> str:
    """The reason why a rollout has ended, in words."""
    row, session = play.row, play.session
    if session.is_full:
        return (
            f"truncated: what the environment writes exceeds max_result_tokens = {config.max_result_tokens}"
        )
    if row.stop_reason is StopReason.LENGTH:
        if row.sampled >= config.max_new_tokens:
            return f"truncated: max_new_tokens = {config.max_new_tokens}"
        return "truncated: no further turns were given"
    if not session.answers_turns:
        return "finished: the turn has ended, and this environment answers none"
    if session.turns >= config.max_turns:
        return f"finished: max_turns = {config.max_turns}, so the environment was not asked again"
    return "finished: the environment gave no answer to the last turn"
