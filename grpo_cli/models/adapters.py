"""LoRA and DoRA adapters: add, disable for the reference, save and load in mlx-lm's format.

A linear layer has input x (B, in) and frozen weights W (out, in); A (in, r), B (r, out), B = 0 at first:

    lora    y = x Wᵀ + s · x A B                              Hu et al. 2021, arXiv:2106.09685, equation 3
    dora    y = m / ‖W + s · (A B)ᵀ‖ · (x Wᵀ + s · x A B)     Liu et al. 2024, arXiv:2402.09353, equation 5

‖·‖ is the norm of each row (out,), a constant in the backward (arXiv:2402.09353, section 4.3); m (out,) is
trained and starts as ‖W‖; s is `LoRA.scale`. W may be quantized (QLoRA, arXiv:2305.14314): gradients pass
through it to the adapters. The reference policy is the same model without its adapters: no second copy.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers

from grpo_cli.errors import ModelError
from grpo_cli.foreign_text import quoted
from grpo_cli.models.adapter_config import ADAPTER_CONFIG, ADAPTERS, AdapterConfig, LoRA, read_adapter_config
from grpo_cli.models.model_files import BREAKDOWNS, header_problem, names_in
from grpo_cli.models.peft import StoredAdapters, read_peft
from grpo_cli.models.peft_config import PeftConfig
from grpo_cli.models.tree import flat
from grpo_cli.words import plural

ADAPTER_EMBEDDINGS = (LoRAEmbedding, DoRAEmbedding)
ADAPTER_LAYERS = (LoRALinear, LoRASwitchLinear, DoRALinear, *ADAPTER_EMBEDDINGS)
LINEAR_LAYERS = (nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear)
# Layers whose `weight` the model's own code reads or sets (gemma3n, kimi_k3), which an adapter does not have.
READ_BY_THE_MODEL = ("prediction_coefs", "correction_coefs", "self_attention_res_proj", "mlp_res_proj")


def add_adapters(model: nn.Module, lora: LoRA) -> None:
    """Freeze the model and add adapters to its linear layers; initially they change nothing.

    Raises ModelError if the model has too few layers, or DoRA cannot adapt one of them.
    """
    total = len(model.layers)
    if lora.layers > total:
        raise ModelError(
            f"lora_layers = {lora.layers}, but the model has {plural(total, 'layer')}",
            f"lora_layers = {total}, or 0 for all",
            trouble="contradiction",
        )
    model.freeze()
    use_dora = lora.kind == "dora"
    if use_dora:
        _check_dora(model, lora)
    linear_to_lora_layers(model, lora.layers or total, _parameters(model, lora), use_dora)


def _check_dora(model: nn.Module, lora: LoRA) -> None:
    """Raise ModelError for a layer that mlx-lm's DoRA cannot adapt correctly."""
    refused = (SwitchLinear, QuantizedSwitchLinear, nn.QuantizedEmbedding)
    for layer in model.layers[-(lora.layers or len(model.layers)) :]:
        for name, module in layer.named_modules():
            if isinstance(module, refused) and (not lora.keys or name in lora.keys):
                raise ModelError(
                    f'lora_type = "dora" cannot adapt `{name}` of this model, a {type(module).__name__}',
                    'write `lora_type = "lora"`',
                    trouble="contradiction",
                )


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Disable the adapters within the block: the model computes like its base before training."""
    adapters = _adapters(model)
    bases = [
        (name, adapter.embedding if isinstance(adapter, ADAPTER_EMBEDDINGS) else adapter.linear)
        for name, adapter in adapters
    ]
    model.update_modules(tree_unflatten(bases))
    try:
        yield
    finally:
        model.update_modules(tree_unflatten(adapters))


@contextmanager
def adapters_of(model: nn.Module, weights: dict[str, mx.array]) -> Iterator[None]:
    """Replace the adapters' weights within the block, by those that training started from."""
    current = flat(model.trainable_parameters())
    model.load_weights(list(weights.items()), strict=False)
    try:
        yield
    finally:
        model.load_weights(list(current.items()), strict=False)


def fuse_adapters(model: nn.Module) -> None:
    """Merge every adapter into its layer and remove it: the model computes the same as before."""
    fused = [(name, adapter.fuse()) for name, adapter in _adapters(model)]
    model.update_modules(tree_unflatten(fused))


def _adapters(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, ADAPTER_LAYERS)]


def save_adapters(model: nn.Module, lora: LoRA, base: str, folder: Path) -> None:
    """Write adapters.safetensors and adapter_config.json; `mlx_lm.generate --adapter-path` reads them."""
    mx.save_safetensors(str(folder / "adapters.safetensors"), flat(model.trainable_parameters()))
    config = {
        "fine_tune_type": lora.kind,
        "model": base,
        "num_layers": lora.layers or len(model.layers),
        "lora_parameters": _parameters(model, lora),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_adapters(model: nn.Module, folder: Path, fusing: bool = False) -> LoRA:
    """Load a folder's adapters onto their base model: mlx-lm's, ours or PEFT's.

    `fusing`: the base's own parameters may change, too (PEFT's `modules_to_save`). Raises ModelError for
    missing or unknown tensors and wrong shapes, and without `fusing` for such modules.
    """
    config = read_adapter_config(folder)
    try:
        stored = _read(model, folder, config)
    except BREAKDOWNS as error:
        raise _misfit(folder, config.model, f"{type(error).__name__}: {str(error)[:200]}") from error
    if stored.saved and not fusing:
        raise _has_modules(folder, stored)
    if stored.saved:
        model.load_weights(list(stored.saved.items()), strict=False)
    try:
        add_adapters(model, stored.lora)
    except BREAKDOWNS as error:
        raise _misfit(folder, config.model, f"{type(error).__name__}: {str(error)[:200]}") from error
    expected = {name: array.shape for name, array in flat(model.trainable_parameters()).items()}
    weights = stored.weights
    wrong = sorted(
        name
        for name in expected.keys() | weights.keys()
        if name not in expected or name not in weights or weights[name].shape != expected[name]
    )
    if wrong:
        raise _misfit(folder, config.model, ", ".join(wrong[:3]))
    model.load_weights(list(weights.items()), strict=False)
    return stored.lora


def _read(model: nn.Module, folder: Path, config: AdapterConfig | PeftConfig) -> StoredAdapters:
    """A folder's adapters in the format that its configuration names."""
    if isinstance(config, PeftConfig):
        return read_peft(model, folder, config)
    return _read_own(folder, config)


def _read_own(folder: Path, config: AdapterConfig) -> StoredAdapters:
    """Adapters in mlx-lm's format."""
    problem = header_problem(folder / ADAPTERS)
    if problem:
        raise ModelError(f"{problem.path} {problem.text}", "copy the folder again", trouble="model-files")
    tensors = names_in(folder / ADAPTERS)
    if not any(config.lora.rank in tensor.shape for tensor in tensors.values()):
        raise _misfit(folder, config.model, f"none has the rank {config.lora.rank} of {ADAPTER_CONFIG}")
    return StoredAdapters(lora=config.lora, weights=flat(mx.load(str(folder / ADAPTERS))))


def _has_modules(folder: Path, stored: StoredAdapters) -> ModelError:
    """The error for whole modules beside the adapters: mlx-lm's format has no place for them."""
    names = sorted({name.rpartition(".")[0] for name in stored.saved})
    return ModelError(
        f"The PEFT adapters in {folder} come with whole modules (modules_to_save: {', '.join(names[:3])}), "
        "which adapters in mlx-lm's format cannot hold",
        f"fuse them into a model and train that: `grpo convert --fuse {quoted(folder)}`",
        trouble="model-weights",
    )


def _misfit(folder: Path, base: str, problem: str) -> ModelError:
    return ModelError(
        f"The adapters in {folder} do not fit {base}: {problem}",
        "load them on the model they were trained on",
        trouble="model-weights",
    )


def _parameters(model: nn.Module, lora: LoRA) -> dict[str, Any]:
    """mlx-lm's `lora_parameters`. Dropout is 0: the sampled policy must be the trained one."""
    names = list(lora.keys) or _names_to_adapt(model)
    keys = {"keys": names} if names else {}
    return {"rank": lora.rank, "scale": lora.scale, "dropout": 0.0, **keys}


def _names_to_adapt(model: nn.Module) -> list[str]:
    """Names within a layer for a model of which some layers cannot be adapted; empty: mlx-lm adapts all.

    For a model without adapters as for one that has them.
    """
    modules = [(name, module) for layer in model.layers for name, module in layer.named_modules()]
    if not any(name.endswith(READ_BY_THE_MODEL) for name, _ in modules):
        return []
    has_adapters = any(isinstance(module, ADAPTER_LAYERS) for _, module in modules)
    kinds = ADAPTER_LAYERS if has_adapters else LINEAR_LAYERS
    names = {name for name, module in modules if isinstance(module, kinds)}
    return sorted(name for name in names if not name.endswith(READ_BY_THE_MODEL))
