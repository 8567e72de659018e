"""Repairs of mlx-lm's model classes that cannot be trained, or compute one thing with their cache and another
without.

    model = repaired(mlx_lm.models.plamo3.Model(arguments))

| class | fault in mlx-lm 0.32.2 | repair |
|---|---|---|
| gemma3n | without a cache, layers that share keys compute some of their own | a new cache for each forward |
| plamo3 | the mask sees one position more than the rotating cache holds | a cache of that size |
| kimi_k3 | in evaluation mode keeps products of weights, also after an update | always in training mode |
| baichuan_m1 | normalizes the output matrix as it loads, also a trained one | in the forward, too |
| recurrent_gemma | skips the constructor of nn.Module, so that it has no trainable weights | its attributes |

The tests compare each class with and without its repair, so they tell when mlx-lm has repaired it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn


def repaired(model: nn.Module) -> nn.Module:
    """The model, changed in place if it has a class with a known fault."""
    for _, module in model.named_modules():
        if not hasattr(module, "_no_grad"):
            module._no_grad, module._training = set(), False
        kind: Any = type(module)
        module.__class__ = _repaired_class(kind)
    return model


@cache
def _repaired_class(kind: Any) -> Any:
    """A class of the same name, so that mlx-lm's is not changed for others; a sound class itself."""
    repair = REPAIRS.get(f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}")
    if repair is None or hasattr(kind, "is_repaired"):
        return kind
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "is_repaired": True, **repair(kind)})


def _always_with_cache(kind: Any) -> dict[str, Any]:
    def call(self: Any, inputs: Any = None, cache: Any = None, **options: Any) -> Any:
        return kind.__call__(self, inputs, cache=self.make_cache() if cache is None else cache, **options)

    return {"__call__": call}


def _one_position_more(kind: Any) -> dict[str, Any]:
    def make_cache(self: Any) -> list[Any]:
        layers: list[Any] = kind.make_cache(self)
        for layer in layers:
            if hasattr(layer, "max_size"):
                layer.max_size = self.config.window_size + 1
        return layers

    return {"make_cache": make_cache}


def _always_training(_: Any) -> dict[str, Any]:
    return {"training": property(lambda _: True)}


def _normalized_head(kind: Any) -> dict[str, Any]:
    """NormHead: each row of the output matrix has the norm 1 (Baichuan 2, arXiv:2309.10305)."""

    def call(self: Any, inputs: mx.array, cache: Any = None) -> mx.array:
        weight = self.lm_head.weight  # (V, H)
        if "scales" in self.lm_head:  # quantized after it was normalized
            logits: mx.array = kind.__call__(self, inputs, cache)
            return logits
        norms = mx.linalg.norm(weight.astype(mx.float32), axis=-1, keepdims=True) + 1e-7
        hidden: mx.array = self.model(inputs, cache)  # (B, T, H)
        return hidden @ (weight / norms).astype(weight.dtype).T

    return {"__call__": call}


REPAIRS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "baichuan_m1.Model": _normalized_head,
    "gemma3n.LanguageModel": _always_with_cache,
    "plamo3.Model": _one_position_more,
    "kimi_k3.KimiK3DecoderLayer": _always_training,
    "kimi_k3.KimiK3DeltaAttention": _always_training,
    "kimi_k3.KimiK3TextModel": _always_training,
}
