"""Gradient checkpointing per layer: activations inside a layer are recomputed in the backward, not stored.

    with checkpointed(model):
        hidden = model(ids, cache=cache)        # called as usual

Only each layer's input is stored (Chen et al. 2016, arXiv:1604.06174, section 4, with one segment per layer).
Memory falls from layers × (all activations of a layer) to layers × hidden + one layer. Layers are called as
`layer(hidden, mask, cache)`. Within the block each is wrapped in a pure function:

    parameters, hidden, the cache's keys and values → hidden', the keys and values of the new tokens

The cache itself is filled outside of that function, once, so recomputation has no side effect, and gradients
flow through a shared prompt (prompt_cache.py) as without checkpointing. Unlike mlx-lm's `grad_checkpoint`
this changes no class.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from grpo_cli.engine.update.chunked_logits import PROBE_IDS
from grpo_cli.models.same_logits import same_logits
from grpo_cli.models.tree import flat

ArrayList = list[mx.array]


class RepeatedRows:
    """A layer's cache with repeated rows of another cache, copied only while the layer reads them.

    `prompt_cache.keep` copies at once: every layer would store G copies of a prompt's keys for the backward.
    """

    def __init__(self, source: Any, rows: mx.array) -> None:
        self.source, self.rows = source, rows
        self.kept = copy(source)
        self.kept.filter(rows)  # lazy: only its lengths and paddings are read

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kept, name)


class _Recorder:
    """A cache that also records the keys and values added to it."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self.added: ArrayList = []  # keys and values in turn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        self.added += [keys, values]
        return self._cache.update_and_fetch(keys, values)


class CheckpointedLayer:
    """Replaces a layer within `checkpointed`."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def __call__(self, *arguments: Any, **named: Any) -> mx.array:
        """The layer's output. Raises TypeError if that is not a single array."""
        self.calls += 1
        given = [*arguments, *named.values()]
        places = [place for place, value in enumerate(given) if is_differentiable(value)]
        cache: Any = next((value for value in given if hasattr(value, "update_and_fetch")), None)
        before = Past(cache)
        trained = flat(self.layer.trainable_parameters())

        def compute(arrays: ArrayList) -> ArrayList:
            weights = dict(zip(trained, arrays, strict=False))
            inputs = arrays[len(trained) : len(trained) + len(places)]
            recorder = _Recorder(before.with_arrays(arrays[len(trained) + len(places) :]))
            values = [recorder if cache is not None and value is cache else value for value in given]
            for place, array in zip(places, inputs, strict=True):
                values[place] = array
            options = dict(zip(named, values[len(arguments) :], strict=True))
            with replaced(self.layer, weights):
                output: Any = self.layer(*values[: len(arguments)], **options)
            if not isinstance(output, mx.array):
                raise TypeError(f"a layer that returns {type(output).__name__} cannot be checkpointed")
            return [output, *recorder.added]

        inputs = [given[place] for place in places]
        output, *added = recomputed(compute)([*trained.values(), *inputs, *before.arrays])
        for keys, values in zip(added[::2], added[1::2], strict=True):
            cache.update_and_fetch(keys, values)
        return output


def is_differentiable(value: Any) -> bool:
    """True if a gradient can flow through a layer's argument; masks and ids are constants."""
    return isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)


class Past:
    """The contents of a layer's cache before a call of the layer; empty without a cache."""

    def __init__(self, cache: Any) -> None:
        source = cache.source if isinstance(cache, RepeatedRows) else cache
        self.rows = cache.rows if isinstance(cache, RepeatedRows) else None
        self.state = copy(source)  # the cache itself advances before the backward runs
        empty = source is None or source.empty()
        self.arrays: ArrayList = [] if empty else list(source.keys_and_values())  # each (P, KV, T, D)

    def with_arrays(self, arrays: ArrayList) -> Any:
        """A copy of the cache with these keys and values, for one call of the layer."""
        cache = copy(self.state)
        if arrays:
            cache.keys, cache.values = arrays
        if self.rows is not None:
            cache.filter(self.rows)
        return cache


@contextmanager
def replaced(module: nn.Module, weights: dict[str, mx.array]) -> Iterator[None]:
    """Replace a module's weights within the block."""
    kept = [(name, array) for name, array in flat(module.parameters()).items() if name in weights]
    module.update(tree_unflatten(list(weights.items())))
    try:
        yield
    finally:
        module.update(tree_unflatten(kept))


def recomputed(function: Callable[[ArrayList], ArrayList]) -> Callable[[ArrayList], ArrayList]:
    """A function that stores only its inputs and recomputes its activations in the backward.

    Recomputation waits for the gradient of the outputs, so the activations of one function at a time are in
    memory. `mx.checkpoint` may recompute all functions at once.
    """

    @mx.custom_function
    def forward(*arrays: mx.array) -> ArrayList:
        return function(list(arrays))

    def backward(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        del outputs
        gradients_of = as_list(cotangents)
        inputs: Any = mx.depends(as_list(primals), gradients_of)
        _, gradients = mx.vjp(lambda *arrays: function(list(arrays)), inputs, gradients_of)
        return tuple(gradients)

    forward.vjp(backward)
    traced: Any = forward
    return lambda arrays: as_list(traced(*arrays))


def as_list(arrays: mx.array | Sequence[mx.array]) -> ArrayList:
    """Normalize MLX's results: a single array for one, a tuple or list for several."""
    return [arrays] if isinstance(arrays, mx.array) else list(arrays)


def layers_of(model: Any) -> list[Any]:
    """The list of layers that the model iterates over; `model.layers` may be a copy of a part of it.

    Empty if no such list is found.
    """
    wanted = {id(layer) for layer in getattr(model, "layers", [])}
    for module in model.modules():
        for value in module.values():
            if isinstance(value, list) and wanted and wanted <= {id(item) for item in value}:
                return value
    return []


@contextmanager
def checkpointed(model: Any) -> Iterator[list[CheckpointedLayer]]:
    """Recompute the model's layers in the backward of everything within the block; yields their wrappers."""
    layers = layers_of(model)
    originals = list(layers)
    stand_ins = [CheckpointedLayer(layer) for layer in originals]
    layers[:] = stand_ins
    try:
        yield stand_ins
    finally:
        layers[:] = originals


def can_checkpoint(model: Any) -> bool:
    """True if the model's layers can be wrapped without changing its output, tested on a few tokens."""
    if not layers_of(model):
        return False
    ids = mx.array(PROBE_IDS)
    expected = model(ids)
    try:
        with checkpointed(model) as layers:
            found = model(ids)
    except (TypeError, ValueError, AttributeError, KeyError):  # the model calls its layers differently
        return False
    once = all(layer.calls == 1 for layer in layers)
    return once and same_logits(found, expected)
