"""Keys that must not change when a run is resumed, with the reasons.

check_changes(before, after)      # ConfigError: seed cannot change: the prompts and their order depend on it
"""

import os

from grpo_cli.config.fields import toml_value
from grpo_cli.config.local_model import local_folder
from grpo_cli.config.schema import Config
from grpo_cli.errors import ConfigError
from grpo_cli.foreign_text import quoted

# reason → keys that must stay
FIXED = {
    "the saved weights and optimizer state depend on it": (
        "model_name", "adapter", "dtype", "lora_rank", "lora_type", "lora_scale", "use_rslora",
        "lora_dropout", "lora_layers", "optimizer", "sync_ref_model",
    ),
    "the prompts and their order depend on it": (
        "dataset", "dataset_config", "train_split", "prompt_column", "prompt_format", "answer_column",
        "chat_template_kwargs", "system_column", "system_prompt", "completion_prefix", "max_train_samples",
        "max_prompt_length", "seed",
    ),
    "a run is resumed in its own folder": ("output_dir", "run_name"),
    "it defines the size of a step": ("num_iterations", "steps_per_generation"),
}  # fmt: skip


# Compared by content instead of name, so the file may move if the old path is gone.
PLACES = ("model_name", "dataset")


def is_gone(key: str, name: str) -> bool:
    """True if the name is neither built in nor a file or folder on this machine."""
    if key == "model_name":
        return local_folder(name) is None
    return name != "arithmetic" and not os.path.lexists(name)


def check_changes(before: Config, after: Config) -> None:
    """Raise ConfigError if a resumed run's configuration changes a fixed key."""
    for reason, keys in FIXED.items():
        for key in keys:
            old, new = getattr(before, key), getattr(after, key)
            if old != new and not (key in PLACES and is_gone(key, old)):
                given = quoted(f"{key}={new if isinstance(new, str) else toml_value(new)}")
                raise ConfigError(
                    f"{key} cannot change when a run is resumed: {reason} ({key} = {toml_value(old)})",
                    f"leave it out, or start a new run: `--set {given} --set run_name=NAME`",
                    trouble="resumable",
                )
    if before.prompts_per_step != after.prompts_per_step:
        raise ConfigError(
            f"batch_size × gradient_accumulation_steps cannot change when a run is resumed: a step has "
            f"{before.prompts_per_step} prompts, not {after.prompts_per_step}",
            f"choose two numbers whose product is {before.prompts_per_step}",
            trouble="resumable",
        )
