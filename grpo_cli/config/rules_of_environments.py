"""Rules for tools and environments."""

from collections.abc import Iterator

from grpo_cli.config.fields import nearest, short, toml_value
from grpo_cli.config.schema import Config
from grpo_cli.config.violation import Rule, Violation, is_meant
from grpo_cli.rewards.spec import RewardSpec

TOOLS = ("auto", "calculator")
ENVIRONMENTS = ("calculator", "guess", "search")  # the embedded ones: environments/table.py
VERIFIERS = "verifiers:"


def tools_exist(config: Config) -> Iterator[Violation]:
    """Each tool is built in or has the form `file.py:function`."""
    for spec in map(RewardSpec.parse, config.tools):
        if spec.is_file and not spec.name:
            message = f"Tool not named: {spec.file}"
            cure = f"write `{spec.file}:function`, with the function's name"
        elif not spec.is_file and spec.name not in TOOLS:
            message = f"Unknown tool: {short(spec.name)}"
            cure = (
                'write `tools = ["auto"]`, `tools = ["calculator"]`, or `tools = []` for none; your own: '
                "`path/to/file.py:function`"
            )
        else:
            continue
        yield Violation(keys=("tools",), message=message, cure=cure, trouble="tools")


def environments_exist(config: Config) -> Iterator[Violation]:
    """Each environment is embedded or has the form `file.py:Class`."""
    for entry in config.environments:
        spec = RewardSpec.parse(entry)
        if entry.startswith(VERIFIERS):
            message = f"Environments of verifiers are not supported: {short(entry)}"
            cure = 'write `environment = "my_env.py:Wordle"`, a class of yours with its dataset and rubric'
        elif spec.is_file and not spec.name:
            message = f"Environment class not named: {spec.file}"
            cure = f"write `{spec.file}:Class`, with the class's name"
        elif not spec.is_file and entry not in ENVIRONMENTS:
            message, cure = f"Unknown environment: {short(entry)}", embedded_hint(config)
        else:
            continue
        yield Violation(keys=("environment",), message=message, cure=cure, trouble="tools")


def embedded_hint(config: Config) -> str:
    """The cure of an unknown name: the nearest embedded ones, and all of them."""
    listed = f"embedded environments: {', '.join(ENVIRONMENTS)}; your own: `path/to/file.py:Class`"
    meant = [
        entry if RewardSpec.parse(entry).is_file else nearest(entry, ENVIRONMENTS)
        for entry in config.environments
    ]
    if None in meant:
        return listed
    return f"write `environment = {toml_value(', '.join(filter(None, meant)))}`; {listed}"


def tools_or_environment(config: Config) -> Iterator[Violation]:
    """`tools` has no effect with an environment, whose tools are its public methods."""
    if config.environments and config.tools and is_meant(config, "tools"):
        message = f"tools = {short(toml_value(config.tools))} has no effect: the environment has its own"
        cure = 'a method of the class can call yours; write `tools = ["auto"]`, or `environment = ""`'
        yield Violation(
            keys=("tools", "environment"),
            message=message,
            cure=cure,
            severity="warning",
            trouble="tools",
        )


def environment_keys_need_one(config: Config) -> Iterator[Violation]:
    """`num_episodes` and the reward `environment` belong to an environment."""
    if config.environments:
        return
    if config.num_episodes:
        message = f"num_episodes = {config.num_episodes} has no effect: no environment is named"
        yield without_environment("num_episodes", message, "else `num_episodes = 0`")
    if "environment" in config.reward_functions:
        message = "The reward `environment` applies to no completion: no environment is named"
        others = [name for name in config.reward_functions if name != "environment"] or ["correctness"]
        yield without_environment("reward_functions", message, f"`reward_functions = {toml_value(others)}`")
    if config.eval_reward == "environment":
        message = 'eval_reward = "environment" counts nothing as right: no environment is named'
        yield without_environment("eval_reward", message, '`eval_reward = "correctness"`')


def without_environment(key: str, message: str, cure: str) -> Violation:
    """The warning of a key that has no effect because no environment is named."""
    return Violation(
        keys=(key, "environment"),
        message=message,
        cure=f'write `environment = "guess"`, or the name of yours, or {cure}',
        severity="warning",
        trouble="tools",
    )


def examples_are_named(config: Config) -> Iterator[Violation]:
    """An environment plays its own episodes, or the rows of a dataset that the configuration names."""
    if config.environments and not config.num_episodes and not is_meant(config, "dataset"):
        yield Violation(
            keys=("environment", "num_episodes", "dataset"),
            message=f"environment = {toml_value(config.environment)} plays the rows of the default dataset, "
            f"{config.dataset}",
            cure="write `num_episodes = 200` if it needs no dataset, or `dataset` with the name of yours",
            severity="warning",
            trouble="tools",
        )


RULES: tuple[Rule, ...] = (
    tools_exist,
    environments_exist,
    tools_or_environment,
    environment_keys_need_one,
    examples_are_named,
)
