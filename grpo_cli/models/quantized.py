"""A copy of a model whose layers are rounded to a few bits, for sampling; the model itself stays as it is.

    copy = QuantizedCopy(policy.model, Rounding(bits=4, group_size=64), dequantise=False)
    copy.refresh(policy.model)          # after an update

Only rounded weights are the copy's own. Everything else is the model's: norms, adapters, layers whose rows
are no whole groups. Which layers are rounded follows mlx-lm's `quantize_model`: linear layers, embeddings
and the head. Numbers by group: w ≈ scale · q + bias with q of so many bits (mlx.core.quantize).

With `dequantise` the rounded numbers are kept in float32: the same policy, where products with packed
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
Settings = dict[str, Any]  # what `to_quantized` and `mx.quantize` take


@dataclass(frozen=True)
class Rounding:
    """To how many bits numbers are rounded, and how many share a scale."""

    bits: int
    group_size: int

    @property
    def settings(self) -> Settings:
        """As mlx takes them."""
        return {"group_size": self.group_size, "bits": self.bits}

    def bytes_of(self, numbers: int, width: int) -> int:
        """What so many packed numbers take, with a scale and a bias of `width` bytes for each group."""
        return numbers * self.bits // 8 + 2 * width * numbers // self.group_size


def quantizable(model: nn.Module, rounding: Rounding) -> Iterator[tuple[str, Any, Settings]]:
    """The layers that are rounded: path, layer, settings. A model's own exceptions are kept to."""
    predicate: Any = getattr(model, "quant_predicate", None)
    for path, layer in model.named_modules():
        if not hasattr(layer, "to_quantized") or layer.weight.shape[-1] % rounding.group_size:
            continue
        found = predicate(path, layer) if predicate else True
        if found:
            yield path, layer, found if isinstance(found, dict) else rounding.settings


def copy_bytes(model: nn.Module, rounding: Rounding, dequantize: bool) -> int:
    """What the copy's own weights will take."""
    total = 0
    for _, layer, _ in quantizable(model, rounding):
        size, width = layer.weight.size, layer.weight.dtype.size
        total += FLOAT32 * size if dequantize else rounding.bytes_of(size, width)
    return total


class QuantizedCopy:
    """The rounded twin of a model that is trained."""

    def __init__(self, model: nn.Module, rounding: Rounding, dequantize: bool) -> None:
        """Raises ModelError where no layer can be rounded."""
        self.rounding, self.dequantize = rounding, dequantize
        layers = {path: settings for path, _, settings in quantizable(model, rounding)}
        if not layers:
            raise no_layer(model, rounding)
        self.layers: dict[str, Settings] = layers
        # Every array is the model's own: deepcopy takes what `memo` has for it.
        shared = {id(array): array for array in flat(model.parameters()).values()}
        self.model = deepcopy(model, shared)
        self._take(model, list(layers))

    def refresh(self, model: nn.Module) -> None:
        """Take over the weights that are trained, rounded where they are; frozen ones did not change."""
        trained = flat(model.trainable_parameters())
        others = [(name, array) for name, array in trained.items() if _layer_of(name) not in self.layers]
        if others:
            self.model.update(tree_unflatten(others))
        changed = {_layer_of(name) for name in trained}
        self._take(model, [path for path in self.layers if path in changed])

    def _take(self, model: nn.Module, paths: list[str]) -> None:
        """Round these layers anew."""
        modules = dict(model.named_modules())
        for path in paths:  # one after the other: two copies are never there at once
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
    """The weight (…, out, in) with its numbers rounded, in float32."""
    return mx.dequantize(*mx.quantize(weight.astype(mx.float32), **settings), **settings)


def _layer_of(name: str) -> str:
    """The layer that a parameter belongs to: `layers.0.mlp.up_proj` for `layers.0.mlp.up_proj.weight`."""
    return name.rpartition(".")[0]


def no_layer(model: nn.Module, rounding: Rounding) -> ModelError:
    """Nothing can be rounded, and why."""
    packed = any("scales" in layer for _, layer in model.named_modules())
    groups = f"their rows are no whole groups of {rounding.group_size}"
    why = "they are quantized already" if packed else groups
    cure = "" if packed or rounding.group_size == 32 else "`group_size = 32`, or "
    return ModelError(
        f"quantize_for_rollouts = true finds no layer to quantise: {why}",
        f"write {cure}`quantize_for_rollouts = false`",
        trouble="quantised-rollouts",
    )
