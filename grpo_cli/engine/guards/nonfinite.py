"""Locate the origin of a NaN or infinity: a weight, a layer's output, a logprob, the loss or a gradient.

    find_fault(model, batches, objective, result, gradients)
    # Fault("gradient", "transformer.h.3.mlp.c_fc.weight")

A NaN spreads, so only its first occurrence matters: first in the weights, then in the layers' outputs from
first to last, then in the gradients from the last layer to the first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.gradient import Gradients, UpdateResult
from grpo_cli.engine.update.objective import Objective, microbatch_loss
from grpo_cli.models.tree import flat


@dataclass(frozen=True)
class Fault:
    """The first quantity that is NaN or infinite, and its parameter or layer."""

    quantity: str  # "weight", "output", "logprob", "loss", "gradient"
    where: str

    def __str__(self) -> str:
        return f"{self.quantity} of {self.where}" if self.where else self.quantity


def find_fault(
    model: nn.Module,
    batches: list[Microbatch],
    objective: Objective,
    result: UpdateResult,
    gradients: Gradients,
) -> Fault | None:
    """The first quantity that is not finite; None if loss and gradient norm are finite."""
    if all(abs(value) < float("inf") for value in (result.loss, result.grad_norm)):
        return None
    weight = first_broken(flat(model.parameters()))
    if weight:
        return Fault("weight", weight)
    for batch in batches:  # those of this rank; the faults of other ranks show in the summed gradient
        layer = first_broken_layer(model, batch, objective)
        if layer:
            return Fault("output", layer)
        if not is_finite(batch.old_logprobs) or (
            batch.ref_logprobs is not None and not is_finite(batch.ref_logprobs)
        ):
            return Fault("logprob", "the sampler" if not is_finite(batch.old_logprobs) else "the reference")
    # The backward runs from the last layer to the first, so the origin is the last broken layer in order.
    named = dict(reversed(list(flat(gradients).items())))
    gradient = first_broken(named)
    return Fault("gradient", gradient) if gradient else Fault("loss", "")


def first_broken(arrays: dict[str, mx.array]) -> str | None:
    """The name of the first array with a NaN or infinity; None if there is none.

    Found by bisection: each half of the arrays takes one evaluation.
    """
    names = list(arrays)
    if not names or all_finite([arrays[name] for name in names]):
        return None
    while len(names) > 1:
        first = names[: len(names) // 2]
        names = names[len(first) :] if all_finite([arrays[name] for name in first]) else first
    return names[0]


def all_finite(arrays: list[mx.array]) -> bool:
    """True if all numbers of all arrays are finite."""
    return bool(mx.stack([mx.isfinite(array).all() for array in arrays]).all().item())


def is_finite(array: mx.array) -> bool:
    """True if all numbers of the array are finite."""
    return all_finite([array])


def first_broken_layer(model: nn.Module, batch: Microbatch, objective: Objective) -> str | None:
    """The name of the first layer whose output for a microbatch is not finite. Runs one forward."""
    outputs: dict[str, mx.array] = {}
    with recorded(model, outputs):
        loss, _ = microbatch_loss(model, batch, objective)
        mx.eval(loss)
    return first_broken(outputs)


@contextmanager
def recorded(model: Any, outputs: dict[str, mx.array]) -> Iterator[None]:
    """Record the latest output of each layer by name, within the block."""
    layers = list(model.layers)
    kind = type(layers[0])
    forward = kind.__call__
    names = {id(layer): f"layer {index}" for index, layer in enumerate(layers)}

    def record(self: Any, *arguments: Any, **named: Any) -> Any:
        output = forward(self, *arguments, **named)
        if isinstance(output, mx.array) and id(self) in names:
            outputs[names[id(self)]] = output
        return output

    kind.__call__ = record
    try:
        yield
    finally:
        kind.__call__ = forward
