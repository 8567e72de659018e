"""A quantized copy of a model for sampling; the model itself stays unchanged.

    copy = QuantizedCopy(policy.model, Rounding(bits=4, group_size=64), dequantize=False)
    copy.refresh(policy.model)          # after an update

Only quantized weights are copied. Everything else is shared: norms, adapters, layers whose rows
are not whole groups. As in mlx-lm's `quantize_model`, quantized layers are linear layers, embeddings
and the head. Each group is w ≈ scale · q + bias, with q of `bits` bits (mlx.core.quantize).

With `dequantize` the rounded numbers are kept in float32: the same policy, where products with packed
weights are slow (device.py's `upcast`).
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from grpo_cli.errors import ModelError
from grpo_cli.models.tree import flat

FLOAT32 = 4  # bytes
Settings = dict[str, Any]  # arguments of `to_quantized` and `mx.quantize`


@dataclass(frozen=True)
class Rounding:
    """Quantization settings: bits per number, and group size (numbers that share a scale)."""

    bits: int
    group_size: int

    @property
    def settings(self) -> Settings:
        """Keyword arguments for mlx."""
        return {"group_size": self.group_size, "bits": self.bits}

    def bytes_of(self, numbers: int, width: int) -> int:
        """Bytes of packed numbers, with a scale and a bias of `width` bytes for each group."""
        return numbers * self.bits // 8 + 2 * width * numbers // self.group_size


def quantizable(model: nn.Module, rounding: Rounding) -> Iterator[tuple[str, Any, Settings]]:
    """The layers to quantize: path, layer, settings. A model's own exceptions are respected."""
    predicate: Any = getattr(model, "quant_predicate", None)
    for path, layer in model.named_modules():
        if not hasattr(layer, "to_quantized") or layer.weight.shape[-1] % rounding.group_size:
            continue
        found = predicate(path, layer) if predicate else True
        if found:
            yield path, layer, found if isinstance(found, dict) else rounding.settings


def copy_bytes(model: nn.Module, rounding: Rounding, dequantize: bool) -> int:
    """Bytes of the copy's own weights."""
    total = 0
    for _, layer, _ in quantizable(model, rounding):
        size, width = layer.weight.size, layer.weight.dtype.size
        total += FLOAT32 * size if dequantize else rounding.bytes_of(size, width)
    return total


class QuantizedCopy:
    """The quantized copy of a model in training."""

    def __init__(self, model: nn.Module, rounding: Rounding, dequantize: bool) -> None:
        """Raises ModelError if no layer can be quantized."""
        self.rounding, self.dequantize = rounding, dequantize
        layers = {path: settings for path, _, settings in quantizable(model, rounding)}
        if not layers:
            raise no_layer(model, rounding)
        self.layers: dict[str, Settings] = layers
        # deepcopy reuses every array listed in `memo`, so all arrays stay shared.
        shared = {id(array): array for array in flat(model.parameters()).values()}
        self.model = deepcopy(model, shared)
        self._take(model, list(layers))

    def refresh(self, model: nn.Module) -> None:
        """Update from the trained weights, quantized where needed; frozen weights did not change."""
        trained = flat(model.trainable_parameters())
        others = [(name, array) for name, array in trained.items() if _layer_of(name) not in self.layers]
        if others:
            self.model.update(tree_unflatten(others))
        changed = {_layer_of(name) for name in trained}
        self._take(model, [path for path in self.layers if path in changed])

    def _take(self, model: nn.Module, paths: list[str]) -> None:
        """Quantize these layers again."""
        modules = dict(model.named_modules())
        for path in paths:  # one at a time, so that two copies never exist at once
            twin = self._rounded(modules[path], self.layers[path])
            self.model.update_modules(tree_unflatten([(path, twin)]))
            mx.eval(twin.parameters())

    def _rounded(self, layer: Any, settings: Settings) -> nn.Module:
        if not self.dequantize:
            quantized: nn.Module = layer.to_quantized(**settings)
            return quantized
        twin = deepcopy(layer, {id(array): array for array in flat(layer.parameters()).values()})
        twin.weight = rounded(layer.weight, settings)
        return twin


def rounded(weight: mx.array, settings: Settings) -> mx.array:
    """The weight (…, out, in) after quantization, in float32."""
    return mx.dequantize(*mx.quantize(weight.astype(mx.float32), **settings), **settings)


def _layer_of(name: str) -> str:
    """The layer of a parameter: `layers.0.mlp.up_proj` for `layers.0.mlp.up_proj.weight`."""
    return name.rpartition(".")[0]


def no_layer(model: nn.Module, rounding: Rounding) -> ModelError:
    """The error if no layer can be quantized, with the reason."""
    packed = any("scales" in layer for _, layer in model.named_modules())
    groups = f"their rows do not divide into groups of {rounding.group_size}"
    why = "they are quantized already" if packed else groups
    cure = "" if packed or rounding.group_size == 32 else "`group_size = 32`, or "
    return ModelError(
        f"quantize_for_rollouts = true finds no layer to quantize: {why}",
        f"write {cure}`quantize_for_rollouts = false`",
        trouble="quantised-rollouts",
    )
