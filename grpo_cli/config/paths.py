"""Expand and resolve the configuration keys that name paths.

expanded("dataset", "~/data.jsonl")               # /home/ada/data.jsonl
from_folder(config, "/where/the/run/started")     # relative paths resolved against that folder
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.files import expanded_name
from grpo_cli.rewards.spec import RewardSpec

PATH_KEYS = (
    *("output_dir", "dataset", "model_name", "adapter", "judge"),
    *("reward_functions", "tools", "environment"),
)
CODE_KEYS = ("reward_functions", "tools", "environment")  # entries `file.py:name`


def expanded(key: str, value: Any) -> Any:
    """The value with `~` and `$NAME` expanded; hub names and relative paths stay as they are.

    Raises ConfigError for an unknown user or variable.
    """
    return _each_path(key, value, expanded_name)


def _each_path(key: str, value: Any, change: Callable[[str], str]) -> Any:
    if key not in CODE_KEYS:
        return change(value)
    if isinstance(value, str):
        return ",".join(_each_path(key, [entry.strip() for entry in value.split(",")], change))
    files = [RewardSpec.parse(entry).file for entry in value]
    return [
        change(file) + entry[len(file) :] if file else entry for file, entry in zip(files, value, strict=True)
    ]


def from_folder(config: Config, folder: str, given: Collection[str] = ()) -> Config:
    """Make relative paths that exist in `folder` absolute, except those of the `given` keys."""
    if not folder or Path(folder) == Path.cwd():
        return config

    def absolute(text: str) -> str:
        is_there = text and not Path(text).is_absolute() and (Path(folder) / text).exists()
        return str(Path(folder) / text) if is_there else text

    keys = [key for key in PATH_KEYS if key != "output_dir" and key not in given]
    return config.model_copy(update={key: _each_path(key, getattr(config, key), absolute) for key in keys})
