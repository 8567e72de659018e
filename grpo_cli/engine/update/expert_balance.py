"""The auxiliary loss of mixtures of experts, which keeps their load even, and the routing it is made of.

    with recorded_routing(model) as routing:
        logits = model(ids)
    routing.balance(mask, places)      # a scalar: k if k experts per token are evenly loaded, else more

A mixture's router chooses k of E experts for every token. Trained on rewards alone it may send most tokens to
few of them. With f_e, the number of times a token chooses expert e, and P_e, the router's probability of e,
both averaged over tokens and layers, the loss is E · Σ_e f_e P_e; its gradient goes through P alone.

Sources: Fedus et al. 2021, "Switch Transformers", arXiv:2101.03961, section 2.2, eq. 4 to 6. The average over
tokens and layers together is that of transformers' `load_balancing_loss_func`; it is over the completions'
trained tokens here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP
from mlx_lm.tuner.lora import LoRALinear

ROUTERS = ("gate", "router")  # names of the linear layer that scores the experts
LINEAR = (nn.Linear, nn.QuantizedLinear, LoRALinear)


class _Recorded:
    """A layer in the place of another one, which records what goes through."""

    def __init__(self, layer: Any, record: list[mx.array], is_router: bool) -> None:
        self._layer, self._record, self._is_router = layer, record, is_router

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, x: mx.array, *more: Any, **named: Any) -> Any:
        output = self._layer(x, *more, **named)
        self._record.append(output if self._is_router else more[0])  # scores, or the chosen experts
        return output


@dataclass
class Routing:
    """The records of a model's routers, in the order of their calls; mixtures in the order of layers."""

    scores: list[list[mx.array]] = field(default_factory=list)  # of each router's calls, (…, E)
    chosen: list[list[mx.array]] = field(default_factory=list)  # of each mixture's calls, (…, k)

    def balance(self, mask: mx.array, places: mx.array | None = None) -> mx.array:
        """E · Σ_e f_e P_e over the tokens of `mask` (B, S), from the last call of every router.

        `places` (B, S): where these tokens stand in the rows of that call; None: the call had only these.
        """
        counts, probabilities = [], []
        for scores, chosen in zip(self.scores, self.chosen, strict=True):
            logits = at_places(scores[-1], mask, places).astype(mx.float32)  # (B, S, E)
            experts = at_places(chosen[-1], mask, places)  # (B, S, k)
            kinds = mx.arange(logits.shape[-1])
            took = (experts[..., None] == kinds).astype(mx.float32).sum(axis=-2)  # (B, S, E)
            counts.append(average(took, mask))
            probabilities.append(average(mx.softmax(logits, axis=-1), mask))
        shares, means = mx.stack(counts).mean(axis=0), mx.stack(probabilities).mean(axis=0)  # (E,) each
        return len(shares) * (mx.stop_gradient(shares) * means).sum()


def at_places(values: mx.array, mask: mx.array, places: mx.array | None) -> mx.array:
    """A router's values for the tokens of a batch: (B, S, E), of a call with (B, T, E) or (B·T, E)."""
    values = values.reshape(len(mask), -1, values.shape[-1])
    return values if places is None else mx.take_along_axis(values, places[..., None], axis=1)


def average(values: mx.array, mask: mx.array) -> mx.array:
    """The mean over the tokens of a mask: (B, S, E) to (E,); 0 for an empty mask."""
    weights = mask.astype(mx.float32)[..., None]
    return (values * weights).sum(axis=(0, 1)) / mx.maximum(weights.sum(), 1.0)


def mixtures(model: nn.Module) -> list[tuple[Any, str, str]]:
    """The model's mixtures, each with the names of its linear router and of its experts, in layer order.

    Empty for models without experts, and for those whose router is more than a linear layer.
    """
    found = []
    for _, module in sorted(model.named_modules()):
        router = next((name for name in ROUTERS if isinstance(module.get(name), LINEAR)), None)
        experts = next(
            (name for name, child in module.items() if isinstance(child, SwitchGLU | SwitchMLP)), None
        )
        if router and experts:
            found.append((module, router, experts))
    return found


@contextmanager
def recorded_routing(model: nn.Module) -> Iterator[Routing]:
    """Within the block the routing of the model's mixtures is recorded."""
    routing, originals = Routing(), []
    for module, router, experts in mixtures(model):
        routing.scores.append([])
        routing.chosen.append([])
        for name, record in ((router, routing.scores[-1]), (experts, routing.chosen[-1])):
            originals.append((module, name, module[name]))
            setattr(module, name, _Recorded(module[name], record, is_router=name == router))
    try:
        yield routing
    finally:
        for module, name, layer in originals:
            setattr(module, name, layer)
