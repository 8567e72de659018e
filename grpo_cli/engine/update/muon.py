"""Muon for the matrices of linear layers, AdamW for all other weights, as one MLX optimizer.

    rule = MuonWithAdamW(rate=2e-4, matrices=matrices_of(model), …)

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) orthogonalizes the momentum of a matrix,
so that every direction of its update has the same size, and keeps one number of state per weight instead of
two. It does not suit embeddings, the output head, norms, biases and other vectors; these get AdamW. The
update of a matrix is that of `mlx.optimizers.Muon`. Departs from it in the weight decay, which is decoupled,
as AdamW's and as in Liu et al. 2025, arXiv:2502.16982, section 2.2.

An update of Muon moves a weight by about rate / √columns, one of AdamW by about the rate: Muon's usual rates
are 10 to 100 times higher. `adamw_learning_rate` sets the other weights' rate apart.
"""

from collections.abc import Collection
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from grpo_cli.models.tree import at, flat


class MuonWithAdamW(optim.Optimizer):
    """Muon on the weights named in `matrices`, AdamW on the others."""

    def __init__(
        self,
        *,
        rate: float,
        matrices: Collection[str],
        momentum: float = 0.95,
        betas: list[float],
        weight_decay: float = 0.0,
        adamw_share: float = 1.0,  # AdamW's rate / Muon's
    ) -> None:
        super().__init__()
        self.matrices, self.weight_decay, self.adamw_share = frozenset(matrices), weight_decay, adamw_share
        self.muon = optim.Muon(rate, momentum=momentum, weight_decay=0.0)
        self.adamw = optim.AdamW(rate, betas=betas, weight_decay=weight_decay, bias_correction=True)
        self.learning_rate = rate

    @property
    def learning_rate(self) -> mx.array:
        """Muon's learning rate. Setting it sets AdamW's in proportion."""
        rate: mx.array = self.state["learning_rate"]
        return rate

    @learning_rate.setter
    def learning_rate(self, rate: float | mx.array) -> None:
        self.state["learning_rate"] = mx.array(rate)
        self.muon.learning_rate = rate
        self.adamw.learning_rate = rate * self.adamw_share

    def init(self, parameters: Any) -> None:
        """Initialize the state: `v` for matrices, `m` and `v` for other weights."""
        super().init(parameters)
        for name in flat(parameters):
            if name in self.matrices:
                del at(self.state, name)["m"]

    def init_single(self, parameter: mx.array, state: dict[str, Any]) -> None:
        """Initialize the state of one weight as AdamW's; Muon's is a part of it."""
        self.adamw.init_single(parameter, state)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]) -> mx.array:
        """The new weight by the rule that its state belongs to."""
        if "m" in state:
            self.adamw.state["step"] = self.state["step"]
            return self.adamw.apply_single(gradient, parameter, state)
        kept = parameter * (1.0 - self.learning_rate * self.weight_decay) if self.weight_decay else parameter
        return self.muon.apply_single(gradient, kept, state)


def matrices_of(model: nn.Module) -> set[str]:
    """Names of the trainable weights that Muon suits: matrices of linear layers and of their adapters.

    The output head is left out: the layer with as many rows as the embeddings.
    """
    modules = dict(model.named_modules())
    vocabularies = {m.weight.shape[0] for m in modules.values() if isinstance(m, nn.Embedding)}
    trained = flat(model.trainable_parameters())
    found: set[str] = set()
    for name, module in modules.items():
        names = [f"{name}.{key}" for key in ("lora_a", "lora_b")]
        if isinstance(module, nn.Linear) and module.weight.shape[0] not in vocabularies:
            names.append(f"{name}.weight")
        found.update(each for each in names if each in trained and trained[each].ndim == 2)
    return found
