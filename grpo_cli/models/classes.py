"""Which class runs a model: mlx-lm's by the `model_type` of config.json, or one of ours.

    load_weights(folder)        # strict, lazily; the class is chosen here

A model of ours carries its source file beside its weights, so that plain mlx-lm runs it too
(`--trust-remote-code`). We run our own copy and never the folder's.
"""

import pkgutil
import shutil
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.nn as nn
import mlx_lm.models
from mlx_lm.utils import MODEL_REMAPPING, _get_classes, load_config, load_model

from grpo_cli.files import without_pattern
from grpo_cli.models import nanochat_v2
from grpo_cli.trust import refuse_model_file, without_code

REFUSALS = (ValueError, KeyError, TypeError, RuntimeError, OSError)  # how mlx and mlx-lm refuse weights
# model_type → module with Model and ModelArgs, for what mlx-lm does not have.
OURS: dict[str, ModuleType] = {"nanochat_v2": nanochat_v2}


def load_weights(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a folder and its config.json, strictly and lazily: arrays are read where they are used.

    The config.json names no code but ours. Raises what mlx-lm raises: FileNotFoundError without weights,
    ValueError for what does not fit; ModelError for a model that needs code of its own.
    """
    named = load_config(folder)
    own = _own_file(named.get("model_type"))
    refuse_model_file(named, folder, own)
    with without_pattern(folder) as plain:  # mlx-lm globs it
        model, config = load_model(
            plain,
            lazy=True,
            model_config={"model_file": None},
            get_model_classes=model_classes,
            trust_remote_code=False,
        )
    return model, without_code(config) | ({"model_file": own} if own else {})


def model_classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """(Model, ModelArgs) for a config.json. ValueError for a type that neither we nor mlx-lm have."""
    model_type = config["model_type"]
    if _own_file(model_type):
        return OURS[model_type].Model, OURS[model_type].ModelArgs
    if not isinstance(model_type, str) or MODEL_REMAPPING.get(model_type, model_type) not in _of_mlx_lm():
        raise ValueError(f"Model type {model_type} not supported.")
    try:
        return _get_classes(config)
    except AttributeError as error:  # a module of mlx-lm's that is no model
        raise ValueError(f"Model type {model_type} not supported.") from error


@cache
def _of_mlx_lm() -> frozenset[str]:
    """The modules that mlx-lm has for models."""
    return frozenset(module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__))


def save_code(config: dict[str, Any], folder: Path) -> None:
    """Write the source file that config.json names as its `model_file`, where the model is one of ours."""
    own = _own_file(config.get("model_type"))
    if own:
        shutil.copyfile(str(OURS[config["model_type"]].__file__), folder / own)


def _own_file(model_type: object) -> str | None:
    """The name of the source file of a model of ours; None for any other."""
    return f"{model_type}.py" if isinstance(model_type, str) and model_type in OURS else None
