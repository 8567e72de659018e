"""Flat tables of a model's parameters, gradients or optimizer state, and its JSON files."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from grpo_cli.errors import ModelError
from grpo_cli.untrusted_json import DamagedFile, read_object


def flat(tree: Any) -> dict[str, mx.array]:
    """Name → array for every array in the tree: `{"layers.0.weight": …}`. Other leaves are dropped."""
    leaves: Any = tree_flatten(tree)
    return {name: leaf for name, leaf in leaves if isinstance(leaf, mx.array)}


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; a quantized weight counts with its original size."""
    arrays = flat(model.parameters())
    count = sum(array.size for array in arrays.values())
    for name, module in model.named_modules():
        if f"{name}.scales" in arrays:
            packed = arrays[f"{name}.weight"].size
            extra = sum(arrays[f"{name}.{part}"].size for part in ("scales", "biases") if part in module)
            count += packed * 32 // module.bits - packed - extra
    return count


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder. Raises ModelError if it is missing or something else."""
    try:
        return read_object(path)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", "name the folder of a model") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "copy or download it again") from error
    except DamagedFile as error:
        raise ModelError(f"{path} {error}", "copy or download it again") from error


def at(tree: Any, name: str) -> Any:
    """The entry of a tree by the name that `flat` gives it: at(model, "layers.0.weight")."""
    for key in name.split("."):
        tree = tree[int(key)] if isinstance(tree, list | tuple) else tree[key]
    return tree
