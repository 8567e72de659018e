"""Which class runs a model: mlx-lm's by the `model_type` of config.json, or one of ours.

    load_weights(folder)        # strict, lazily; the class is chosen here

A model of ours carries its source file beside its weights, so that plain mlx-lm runs it too
(`--trust-remote-code`). We run our own copy and never the folder's.
"""

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.nn as nn
from mlx_lm.utils import _get_classes, load_config, load_model

from grpo_cli.models import nanochat_v2

REFUSALS = (ValueError, KeyError, TypeError, RuntimeError, OSError)  # how mlx and mlx-lm refuse weights
# model_type → module with Model and ModelArgs, for what mlx-lm does not have.
OURS: dict[str, ModuleType] = {"nanochat_v2": nanochat_v2}


def load_weights(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a folder and its config.json, strictly and lazily: arrays are read where they are used.

    Raises what mlx-lm raises: FileNotFoundError without weights, ValueError for what does not fit.
    """
    model_type = load_config(folder).get("model_type")
    if model_type not in OURS:
        return load_model(folder, lazy=True)
    model, config = load_model(
        folder, lazy=True, model_config={"model_file": None}, get_model_classes=model_classes
    )
    return model, config | {"model_file": _file_name(model_type)}


def model_classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """(Model, ModelArgs) for a config.json."""
    ours = OURS.get(config["model_type"])
    return (ours.Model, ours.ModelArgs) if ours else _get_classes(config)


def save_code(config: dict[str, Any], folder: Path) -> None:
    """Write the source file that config.json names as its `model_file`, where the model is one of ours."""
    ours = OURS.get(config.get("model_type", ""))
    if ours:
        shutil.copyfile(str(ours.__file__), folder / _file_name(config["model_type"]))


def _file_name(model_type: str) -> str:
    return f"{model_type}.py"
