"""Rules on files that a configuration names: its reward files and its model's config.json.

They depend on the machine and the current folder, so only `grpo train`, `grpo config validate` and the doctor
check them. Merely reading a configuration (an evaluation elsewhere) does not. They run no reward and load no
model, and skip files that are not on this machine.
"""

from collections.abc import Iterator
from pathlib import Path

from grpo_cli.config.local_model import model_config, positions
from grpo_cli.config.schema import Config
from grpo_cli.config.violation import Rule, Violation, is_meant
from grpo_cli.rewards.spec import RewardSpec


def reward_files_exist(config: Config) -> Iterator[Violation]:
    """The file in `file.py:function` exists."""
    for key, kind, trouble in (("reward_functions", "Reward", "rewards"), ("tools", "Tool", "tools")):
        for spec in map(RewardSpec.parse, getattr(config, key)):
            if spec.is_file and spec.name and not _is_file(spec):
                message = f"{kind} file not found: {spec.file}"
                cure = f"write the path from the current folder, {Path.cwd()}"
                yield Violation(keys=(key,), message=message, cure=cure, trouble=trouble)


def _is_file(spec: RewardSpec) -> bool:
    try:
        return spec.path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, contains NUL, or an unknown ~user
        return False


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


LOCAL_RULES: tuple[Rule, ...] = (reward_files_exist, rows_fit_the_model)
