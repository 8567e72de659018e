"""What may change when a run goes on, and why the rest may not.

check_changes(before, after)      # ConfigError: seed cannot change: the order of prompts follows from it
"""

import os

from grpo_cli.config.fields import toml_value
from grpo_cli.config.local_model import local_folder
from grpo_cli.config.schema import Config
from grpo_cli.errors import ConfigError
from grpo_cli.foreign_text import quoted

# reason → keys that must stay
FIXED = {
    "the saved weights and the optimizer's state belong to it": (
        "model_name", "dtype", "lora_rank", "lora_type", "lora_scale", "use_rslora", "lora_dropout",
        "lora_layers", "optimizer",
    ),
    "the prompts and their order follow from it": (
        "dataset", "dataset_config", "train_split", "prompt_column", "prompt_format", "answer_column",
        "system_column", "system_prompt", "completion_prefix", "max_train_samples",
        "max_prompt_length", "seed",
    ),
    "the run goes on in its own folder": ("output_dir", "run_name"),
    "steps are counted in it": ("num_iterations", "steps_per_generation"),
}  # fmt: skip


# What these name is compared by its content, so another place will do where the old one is gone.
PLACES = ("model_name", "dataset")


def is_gone(key: str, name: str) -> bool:
    """Neither the folder or file of that name is on this machine, nor is it built in."""
    if key == "model_name":
        return local_folder(name) is None
    return name != "arithmetic" and not os.path.lexists(name)


def check_changes(before: Config, after: Config) -> None:
    """Raise ConfigError where a resumed run's configuration differs in what cannot change."""
    for reason, keys in FIXED.items():
        for key in keys:
            old, new = getattr(before, key), getattr(after, key)
            if old != new and not (key in PLACES and is_gone(key, old)):
                given = quoted(f"{key}={new if isinstance(new, str) else toml_value(new)}")
                raise ConfigError(
                    f"{key} cannot change when a run goes on: {reason} ({key} = {toml_value(old)})",
                    f"leave it out, or start a new run: `--set {given} --set run_name=NAME`",
                    trouble="resumable",
                )
    if before.prompts_per_step != after.prompts_per_step:
        raise ConfigError(
            f"batch_size × gradient_accumulation_steps cannot change when a run goes on: a step has "
            f"{before.prompts_per_step} prompts, not {after.prompts_per_step}",
            f"choose two numbers whose product is {before.prompts_per_step}",
            trouble="resumable",
        )
