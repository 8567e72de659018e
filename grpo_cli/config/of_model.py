"""The configuration that a model was trained with, for its prompt format.

config_of_model("outputs/smoke_test/final")   →   outputs/smoke_test/config.toml
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grpo_cli.config.load import LoadedConfig, inspect_config, load_config
from grpo_cli.config.local_model import local_folder
from grpo_cli.config.problems import COMMAND_LINE, Problem, config_error
from grpo_cli.config.resolve import shipped_folder
from grpo_cli.config.schema import Config
from grpo_cli.files import expanded_name
from grpo_cli.foreign_text import quoted
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.rewards.table import is_builtin

JUDGE = RewardSpec("", "judge")
PLAIN = ("system_prompt=", "completion_prefix=")


def config_of_model(model: str) -> Config:
    """The configuration for prompts to a model: of the run that made it, the embedded task's for `tiny`."""
    return config_for_prompts(model).config


def config_for_prompts(
    model: str | None, name: str | None = None, overrides: Sequence[str] = ()
) -> LoadedConfig:
    """The named configuration, else that of the model's run, else one of plain prompts.

    Plain prompts, also without a model: no system message and no completion prefix. Tools and environments in
    files are code: if nobody named the configuration or the files, they are left out with a warning.
    """
    beside = None if name or model is None else run_config(model)
    if not name and not beside:
        inspection = inspect_config(None, ["eval_steps=0", *PLAIN, *overrides])
        if inspection.loaded is None:
            raise config_error(inspection.problems, inspection.name)
        return inspection.loaded
    loaded = load_config(name or beside, ["eval_steps=0", *overrides])
    if not beside:
        return loaded
    loaded = replace(loaded, warnings=[one for one in loaded.warnings if was_given(one)])
    return without_file_tools(loaded, beside)


def config_for_evaluation(model: str, name: str | None, overrides: Sequence[str]) -> LoadedConfig:
    """The named configuration, else that of the model's run, else `$MLX_GRPO_CONFIG`, else the defaults.

    Rewards in files are code: if nobody named the configuration, they are left out with a warning. Other
    warnings of such a configuration were already shown when its run started.
    """
    beside = None if name else run_config(model)
    # Nothing is trained, so the rules for evaluation during training do not apply.
    loaded = load_config(name or beside, ["eval_steps=0", *overrides], required=False)
    if not beside:
        return loaded
    loaded = replace(loaded, warnings=[one for one in loaded.warnings if was_given(one)])
    loaded = without_absent_judge(without_file_tools(loaded, beside), beside)
    asked = loaded.sources["reward_functions"] == COMMAND_LINE
    return loaded if asked else without_file_rewards(loaded, beside)


def was_given(problem: Problem) -> bool:
    """True if the problem comes from a `--set` of this command."""
    return str(problem.place) == COMMAND_LINE


def without_file_tools(loaded: LoadedConfig, path: str) -> LoadedConfig:
    """The configuration with built-in tools and environments, and those in files that the user named."""
    config = loaded.config
    tools, environments = config.tools, config.environments
    if loaded.sources["tools"] != COMMAND_LINE:
        tools = [name for name in tools if not RewardSpec.parse(name).is_file]
    if loaded.sources["environment"] != COMMAND_LINE:
        environments = [name for name in environments if not RewardSpec.parse(name).is_file]
    left_out = [name for name in [*config.tools, *config.environments] if name not in [*tools, *environments]]
    if not left_out:
        return loaded
    warning = left_out_warning(left_out, path, "tools")
    kept = config.model_copy(update={"tools": tools, "environment": ",".join(environments)})
    return replace(loaded, config=kept, warnings=[*loaded.warnings, warning])


def left_out_warning(names: Sequence[str], path: str, key: str) -> Problem:
    """The warning about code that only a model's folder names."""
    told = "code that comes with a model is not run unless you ask for it"
    return Problem(
        message=f"{', '.join(names)} is left out: {told}",
        cure=f"name the configuration to run it: `--config {quoted(path)}`",
        key=key,
        severity="warning",
    )


def without_file_rewards(loaded: LoadedConfig, path: str) -> LoadedConfig:
    """The configuration with built-in rewards only."""
    left_out = [reward for reward in loaded.config.reward_functions if not is_builtin(reward)]
    if not left_out:
        return loaded
    return without_rewards(loaded, left_out, left_out_warning(left_out, path, "reward_functions"))


def without_absent_judge(loaded: LoadedConfig, path: str) -> LoadedConfig:
    """The configuration without a judge that only a model's folder names and that is not on this machine.

    A folder may come from anybody, and a name in it starts no download.
    """
    name = loaded.config.judge
    named = loaded.sources["judge"] == COMMAND_LINE
    if not loaded.config.has_judge or not name or named or local_folder(name) is not None:
        return loaded
    warning = Problem(
        message=f"the reward judge is left out: {name} is not on this machine, and a name that comes "
        "with a model is not downloaded unless you ask for it",
        cure=f"name the configuration to download it: `--config {quoted(path)}`",
        key="judge",
        severity="warning",
    )
    judges = [reward for reward in loaded.config.reward_functions if RewardSpec.parse(reward) == JUDGE]
    return without_rewards(loaded, judges, warning)


def without_rewards(loaded: LoadedConfig, left_out: Sequence[str], warning: Problem) -> LoadedConfig:
    """The configuration without some rewards, or with `correctness` if none is left."""
    config = loaded.config
    pairs = zip(config.reward_functions, config.reward_weight_list, strict=True)
    kept = [(reward, weight) for reward, weight in pairs if reward not in left_out]
    rewards, weights = zip(*(kept or [("correctness", 1.0)]), strict=True)
    specs = [RewardSpec.parse(reward) for reward in left_out]
    measure = "" if RewardSpec.parse(config.eval_reward) in specs else config.eval_reward
    update = {"reward_functions": list(rewards), "reward_weights": list(weights), "eval_reward": measure}
    return replace(loaded, config=config.model_copy(update=update), warnings=[*loaded.warnings, warning])


def run_config(model: str) -> str | None:
    """The config.toml of the run that made a model, from the checkpoint or its parent folder, or None."""
    if model == "tiny":
        return str(shipped_folder() / "smoke_test.toml")  # never a file of this name in the current folder
    folder = Path(expanded_name(model)).absolute()
    found = [path for path in (folder / "config.toml", folder.parent / "config.toml") if path.is_file()]
    return str(found[0]) if found else None
