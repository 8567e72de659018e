"""Rules on files that a configuration names: rewards, tools, environments, adapters, the model's config.json.

They depend on the machine and the current folder, so only `grpo train`, `grpo config validate` and the doctor
check them. Merely reading a configuration (an evaluation elsewhere) does not. They run no code and load no
model, and skip files that are not on this machine.
"""

from collections.abc import Iterator
from pathlib import Path

from grpo_cli.config.fields import nearest, toml_value
from grpo_cli.config.local_model import ADAPTER_CONFIG, is_possible, local_folder, model_config, positions
from grpo_cli.config.rules_of_environments import VERIFIERS
from grpo_cli.config.schema import Config
from grpo_cli.config.violation import Rule, Violation, is_meant
from grpo_cli.foreign_text import quoted
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.user_code import ENVIRONMENT, REWARD, TOOL, Kind
from grpo_cli.user_error import describe
from grpo_cli.user_source import names_of_file

NAMED = (("reward_functions", REWARD), ("tools", TOOL), ("environment", ENVIRONMENT))


def named_code_exists(config: Config) -> Iterator[Violation]:
    """The file in `file.py:name` exists and defines the name; it is read and not run."""
    for key, kind in NAMED:
        entries = config.environments if key == "environment" else getattr(config, key)
        for spec in map(RewardSpec.parse, entries):
            if spec.is_file and spec.name and f"{spec.file}:" != VERIFIERS:
                yield from _problem_with(config, key, kind, spec)


def _problem_with(config: Config, key: str, kind: Kind, spec: RewardSpec) -> Iterator[Violation]:
    trouble = kind.error.trouble
    if not _is_file(spec):
        message = f"{kind.word} file not found: {spec.file}"
        cure = f"write the path from the current folder, {Path.cwd()}"
        yield Violation(keys=(key,), message=message, cure=cure, trouble=trouble)
        return
    try:
        names = names_of_file(spec.path)
    except SyntaxError as error:
        message = f"{kind.word} file failed: {spec.file}, line {error.lineno}: {describe(error)}"
        cure = f"run it by itself: `python {quoted(spec.file)}`"
        yield Violation(keys=(key,), message=message, cure=cure, trouble=trouble)
        return
    if names is not None and spec.name not in names:
        own = [name for name, noun in names.items() if noun == kind.noun]
        yield Violation(
            keys=(key,),
            message=f"{kind.word} {kind.noun} not found: {spec.name} in {spec.file}",
            cure=f"{_entry_meant(config, key, spec, own)}{kind.plural} in {spec.file}: "
            f"{', '.join(own) or 'none'}",
            trouble=trouble,
        )


def _entry_meant(config: Config, key: str, spec: RewardSpec, own: list[str]) -> str:
    """The start of a cure that writes the key with the nearest name; empty if none is near."""
    near = nearest(spec.name, own)
    if near is None:
        return ""
    value = getattr(config, key)
    wrong, right = f"{spec.file}:{spec.name}", f"{spec.file}:{near}"
    if isinstance(value, str):
        meant: object = ", ".join(right if entry == wrong else entry for entry in config.environments)
    else:
        meant = [right if entry == wrong else entry for entry in value]
    return f"write `{key} = {toml_value(meant)}`; "


def _is_file(spec: RewardSpec) -> bool:
    try:
        return spec.path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, contains NUL, or an unknown ~user
        return False


def adapter_is_there(config: Config) -> Iterator[Violation]:
    """The folder in `adapter` exists and holds adapters. A repository that is not here is not judged."""
    folder = local_folder(config.adapter) if config.adapter else None
    if folder is not None and not (folder / ADAPTER_CONFIG).is_file():
        message = f"{config.adapter} holds no adapters: {ADAPTER_CONFIG} is missing"
        cure = "name a folder that `mlx_lm.lora`, this program or peft wrote; `model_name` takes a full model"
    elif config.adapter and folder is None and not is_possible(config.adapter):
        message = f"Adapters not found: {config.adapter}"
        cure = f"write the path from the current folder, {Path.cwd()}"
    else:
        return
    yield Violation(keys=("adapter",), message=message, cure=cure, trouble="model-not-found")


def rows_fit_the_model(config: Config) -> Iterator[Violation]:
    """Prompt plus completion fit into the model's positions.

    Only prompts near their limit reach the sum, so exceeding the positions with the sum is a warning. If
    max_prompt_length alone exceeds them (the default, with a small model), it says nothing about the real
    prompts.
    """
    most = positions(model_config(config.model_name))
    new, prompt = config.max_new_tokens, config.max_prompt_length
    if most is None:
        return
    if new >= most:
        message = f"max_new_tokens = {new} is too long: {config.model_name} has {most} positions"
        cure = (
            "prompt and completion share them, and beyond them a model writes noise; write "
            f"`max_new_tokens = {max(1, most // 2)}` and `max_prompt_length = {max(1, most - most // 2)}`"
        )
        yield Violation(
            keys=("max_new_tokens", "model_name"),
            message=message,
            cure=cure,
            severity="warning",
            trouble="row-too-long",
        )
    elif new + prompt > most and (prompt < most or is_meant(config, "max_prompt_length")):
        message = (
            f"max_prompt_length = {prompt} and max_new_tokens = {new} allow rows of up to {new + prompt} "
            f"tokens: {config.model_name} has {most} positions"
        )
        cure = f"write `max_prompt_length = {most - new}`: longer prompts are then skipped"
        keys = ("max_prompt_length", "max_new_tokens", "model_name")
        yield Violation(keys=keys, message=message, cure=cure, severity="warning", trouble="row-too-long")


LOCAL_RULES: tuple[Rule, ...] = (named_code_exists, adapter_is_there, rows_fit_the_model)
