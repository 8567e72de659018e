"""The configuration that goes with a model: how it was prompted when it was trained.

config_of_model("outputs/smoke_test/final")   →   outputs/smoke_test/config.toml
"""

from collections.abc import Sequence
from pathlib import Path

from grpo_cli.config.load import LoadedConfig, load_config
from grpo_cli.config.schema import Config


def config_of_model(model: str) -> Config:
    """The run's configuration for a checkpoint, the embedded task's for `tiny`, else plain prompts.

    Without a run a model is asked as it is: no system message and no prefix.
    """
    name = run_config(model)
    return load_config(name).config if name else Config(system_prompt="", completion_prefix="")


def config_for_evaluation(model: str, name: str | None, overrides: Sequence[str]) -> LoadedConfig:
    """The configuration named, else the model's run's, else `$MLX_GRPO_CONFIG`, else the defaults."""
    return load_config(name or run_config(model), overrides, required=False)


def run_config(model: str) -> str | None:
    """The configuration file of the run that made a model, or None."""
    if model == "tiny":
        return "smoke_test"
    beside = Path(model).expanduser().absolute().parent / "config.toml"
    return str(beside) if beside.is_file() else None
