"""Choose the class of a model: mlx-lm's by the `model_type` of config.json, or one of ours.

    load_weights(folder)        # strict, lazily; the class is chosen here

A model of ours comes with its source file next to the weights, so that plain mlx-lm can run it too
(`--trust-remote-code`). We always run our own copy, never the folder's.
"""

import io
import pkgutil
import shutil
from collections.abc import Iterable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.nn as nn
import mlx_lm.models
from mlx_lm.utils import MODEL_REMAPPING, _get_classes, load_config, load_model

from grpo_cli.errors import ModelError
from grpo_cli.files import without_pattern
from grpo_cli.foreign_text import quoted
from grpo_cli.models import nanochat_v2, tied
from grpo_cli.models.config_check import check_config
from grpo_cli.models.model_files import CONFIG, FileProblem, json_problems, tensors_in, weight_problems
from grpo_cli.models.older_keys import with_older_keys
from grpo_cli.models.repairs import repaired
from grpo_cli.trust import refuse_model_file, without_code
from grpo_cli.untrusted_json import DamagedFile, shown

LOAD_ERRORS = (ValueError, KeyError, TypeError, RuntimeError, OSError)  # mlx's and mlx-lm's, for bad weights
# `quant_method`s of other libraries that mlx-lm can read.
READ_METHODS = ("bitnet", "mxfp4", "mxfp8", "fp8", "compressed-tensors", "modelopt", "awq", "gptq")
NEWER = "a newer mlx-lm may support this kind of model: `pip install --upgrade mlx-lm`"
# model_type → module with Model and ModelArgs, for models that mlx-lm lacks.
OURS: dict[str, ModuleType] = {"nanochat_v2": nanochat_v2}


def load_weights(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A folder's model and config.json, loaded strictly and lazily: arrays are read when used.

    config.json can name no code but ours. Raises mlx-lm's errors: FileNotFoundError without weights,
    ValueError if they do not fit; ModelError for a model that needs its own code.
    """
    refuse_problems(json_problems(folder))
    refuse_problems(weight_problems(folder))
    named = load_config(folder)
    own = _own_file(named.get("model_type"))
    refuse_model_file(named, folder, own)
    refuse_other_formats(named, folder)
    try:
        arguments = model_classes(named)[1]
        readable = with_older_keys(named, arguments)
        check_config(readable, arguments, tensors_in(folder))
    except DamagedFile as error:
        raise ModelError(
            f"{folder / CONFIG} {error}",
            "copy config.json from the source of the weights",
            trouble="model-weights",
        ) from error
    model, config = _read(folder, readable)
    return model, without_code(config) | ({"model_file": own} if own else {})


def _read(folder: Path, named: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Load by mlx-lm, which runs no code of the folder. `named`: config.json, readable for its class."""
    is_tied = tied.is_tied(named)

    def classes(config: dict[str, Any]) -> tuple[Any, Any]:
        model_class, arguments = model_classes(config)
        return (tied.with_tied_head(model_class) if is_tied else model_class), arguments

    with without_pattern(folder) as plain:  # mlx-lm globs it
        model, config = load_model(
            plain,
            lazy=True,
            model_config={**named, "model_file": None} | tied.keys_to_build_with(named),
            get_model_classes=classes,
            trust_remote_code=False,
        )
    if is_tied and tied.has_own_head(model):
        config[tied.KEY] = False
    vars(model).pop("sanitize", None)  # of tied.with_tied_head
    return repaired(model), config


def refuse_problems(problems: Iterable[FileProblem]) -> None:
    """Raise ModelError for the first problem with a model's files."""
    for problem in problems:
        folder, hint = problem.path.parent, "copy or download it again"
        if problem.kind == "no weights":
            raise ModelError(f"{folder} holds no weights (model*.safetensors)", "copy or download them again")
        if problem.kind == "stale":
            hint = (
                "it is left from an earlier download or conversion: move it away, "
                f"`mv {quoted(problem.path)} {quoted(f'{problem.path}.aside')}`"
            )
        raise ModelError(f"{problem.path} {problem.text}", hint)


def refuse_other_formats(config: dict[str, Any], folder: Path) -> None:
    """Raise ModelError for a quantization that mlx-lm cannot read, such as bitsandbytes."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else {}
    settings = config.get("quantization_config") or text.get("quantization_config")
    if "quantization" in config or not settings:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    if method not in READ_METHODS:
        raise ModelError(
            f"The weights in {folder} are quantized by another library, in a format that MLX cannot read: "
            f"`quant_method` is {shown(method)}",
            "use the original model, usually the repository without `bnb` or `4bit` in its name, "
            "and quantize it here: `grpo convert OWNER/NAME --quantize`",
            trouble="model-weights",
        )


class UnknownKind(ValueError):
    """A `model_type` that neither this project nor mlx-lm supports."""


def model_classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """(Model, ModelArgs) for a config.json.

    Raises UnknownKind for an unsupported type, ModelError for one that needs a package that is not installed.
    """
    model_type = config["model_type"]
    if _own_file(model_type):
        return OURS[model_type].Model, OURS[model_type].ModelArgs
    if not isinstance(model_type, str) or MODEL_REMAPPING.get(model_type, model_type) not in _of_mlx_lm():
        raise UnknownKind(f"Model type {model_type} not supported.")
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            return _get_classes(config)
    except AttributeError as error:  # a module of mlx-lm that is not a model
        raise UnknownKind(f"Model type {model_type} not supported.") from error
    except (SystemExit, ImportError) as error:  # mlx-lm's olmo ends the process without its package
        raise ModelError(
            f"mlx-lm cannot import its class of the model type {model_type}: "
            f"{said.getvalue().strip() or error}",
            "install the package that it names, in the environment of this program, or choose another model",
            trouble="mlx-lm",
        ) from error


@cache
def _of_mlx_lm() -> frozenset[str]:
    """Names of mlx-lm's model modules."""
    return frozenset(module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__))


def save_code(config: dict[str, Any], folder: Path) -> None:
    """For a model of ours, write the source file that config.json names as `model_file`."""
    own = _own_file(config.get("model_type"))
    if own:
        shutil.copyfile(str(OURS[config["model_type"]].__file__), folder / own)


def _own_file(model_type: object) -> str | None:
    """The source file's name for a model of ours; None for any other."""
    return f"{model_type}.py" if isinstance(model_type, str) and model_type in OURS else None
