"""LoRA adapters: put on, switched off for the reference, saved and loaded in mlx-lm's format.

The base weights stay frozen, so the reference policy is the same model with its adapters off:
no second copy in memory (Hu et al. 2021, arXiv:2106.09685).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers

from grpo_cli.errors import ModelError
from grpo_cli.models.tree import flat

ADAPTER_LAYERS = (LoRALinear, LoRASwitchLinear, LoRAEmbedding)


@dataclass(frozen=True)
class LoRA:
    """The adapters' shape: rank, factor on their output, and how many of the last layers have them."""

    rank: int
    scale: float = 20.0
    layers: int = 0  # 0: all


def add_adapters(model: nn.Module, lora: LoRA) -> None:
    """Freeze the model and give its linear layers adapters that begin as zero."""
    total = len(model.layers)
    if lora.layers > total:
        raise ModelError(
            f"lora_layers = {lora.layers}, but the model has {total} layers",
            f"lora_layers = {total}, or 0 for all",
            trouble="contradiction",
        )
    model.freeze()
    linear_to_lora_layers(model, lora.layers or total, _parameters(lora))


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as it did before it was trained."""
    adapters = [module for module in model.modules() if isinstance(module, ADAPTER_LAYERS)]
    scales = [adapter.scale for adapter in adapters]
    for adapter in adapters:
        adapter.scale = 0.0
    try:
        yield
    finally:
        for adapter, scale in zip(adapters, scales, strict=True):
            adapter.scale = scale


def fuse_adapters(model: nn.Module) -> None:
    """Add every adapter to the layer under it and take it off: the model computes the same as before."""
    fused = [
        (name, module.fuse()) for name, module in model.named_modules() if isinstance(module, ADAPTER_LAYERS)
    ]
    model.update_modules(tree_unflatten(fused))


def save_adapters(model: nn.Module, lora: LoRA, base: str, folder: Path) -> None:
    """Write adapters.safetensors and adapter_config.json; `mlx_lm.generate --adapter-path` reads them."""
    mx.save_safetensors(str(folder / "adapters.safetensors"), flat(model.trainable_parameters()))
    config = {
        "fine_tune_type": "lora",
        "model": base,
        "num_layers": lora.layers or len(model.layers),
        "lora_parameters": _parameters(lora),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_adapters(model: nn.Module, folder: Path) -> LoRA:
    """Put the adapters of a folder on their base model.

    Raises ModelError where a tensor is missing, unknown or of another shape.
    """
    config = read_adapter_config(folder)
    parameters = config["lora_parameters"]
    lora = LoRA(parameters["rank"], parameters["scale"], config["num_layers"])
    add_adapters(model, lora)
    expected = {name: array.shape for name, array in flat(model.trainable_parameters()).items()}
    weights = flat(mx.load(str(folder / "adapters.safetensors")))
    wrong = sorted(
        name
        for name in expected.keys() | weights.keys()
        if name not in expected or name not in weights or weights[name].shape != expected[name]
    )
    if wrong:
        raise ModelError(
            f"The adapters in {folder} do not fit {config['model']}: {', '.join(wrong[:3])}",
            "load them on the model they were trained on",
            trouble="model-weights",
        )
    model.load_weights(list(weights.items()), strict=False)
    return lora


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json as mlx-lm and this project write it.

    Raises ModelError for another program's, which has the same name and other keys.
    """
    path = folder / "adapter_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parameters = config["lora_parameters"]
        found = (config["model"], config["num_layers"], parameters["rank"], parameters["scale"])
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{path} is not an adapter configuration of mlx-lm: {type(error).__name__} {error}",
            "train the adapters here or with `mlx_lm.lora`; for PEFT's, merge them into their model first",
            trouble="model-weights",
        ) from error
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise ModelError(
            f"{path} is of adapters of the kind {kind!r}",
            "only `lora` is supported; fuse them: `mlx_lm.fuse`",
            trouble="model-weights",
        )
    if not isinstance(found[0], str):
        raise ModelError(
            f"{path} names no base model: {found[0]!r}",
            'write the base as `"model": "owner/name"`',
            trouble="model-weights",
        )
    return config


def _parameters(lora: LoRA) -> dict[str, Any]:
    """mlx-lm's name for the adapters' shape. No dropout: the sampled policy must be the trained one."""
    return {"rank": lora.rank, "scale": lora.scale, "dropout": 0.0}
