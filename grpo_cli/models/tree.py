"""A model's parameters, gradients or optimizer state as one flat table of arrays, and its JSON files."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from grpo_cli.errors import ModelError
from grpo_cli.untrusted_json import DamagedFile, read_object


def flat(tree: Any) -> dict[str, mx.array]:
    """Name → array of every array in the tree: `{"layers.0.weight": …}`. Other leaves are left out."""
    leaves: Any = tree_flatten(tree)
    return {name: leaf for name, leaf in leaves if isinstance(leaf, mx.array)}


def count_parameters(model: nn.Module) -> int:
    """Numbers that the model's weights stand for; a quantised weight counts as what it was."""
    arrays = flat(model.parameters())
    count = sum(array.size for array in arrays.values())
    for name, module in model.named_modules():
        if f"{name}.scales" in arrays:
            packed = arrays[f"{name}.weight"].size
            extra = sum(arrays[f"{name}.{part}"].size for part in ("scales", "biases") if part in module)
            count += packed * 32 // module.bits - packed - extra
    return count


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder. Raises ModelError where it is missing or something else."""
    try:
        return read_object(path)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", "name the folder of a model") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "copy or download it again") from error
    except DamagedFile as error:
        raise ModelError(f"{path} {error}", "copy or download it again") from error
