"""The optimizer's step: clip by global norm, update, and float32 master weights for half precision.

A step of 1e-6 is less than half of what separates two neighbouring bfloat16 numbers, and rounding
would swallow it; in float16 Adam's epsilon is 0 and its update a NaN. So where weights are trained in
half precision, the optimizer works on a float32 copy and the model gets it rounded
(mixed-precision training, Micikevicius et al. 2018, arXiv:1710.03740, section 3.1).
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map, tree_map_with_path

from grpo_cli.config.schema import Config
from grpo_cli.errors import CheckpointError
from grpo_cli.models.tree import flat


class Optimizer:
    """The configured optimizer on a model's trainable parameters."""

    def __init__(self, config: Config, model: nn.Module) -> None:
        self.rule = make_rule(config)
        self.max_grad_norm = config.max_grad_norm
        parameters = model.trainable_parameters()
        is_half = any(array.dtype != mx.float32 for array in flat(parameters).values())
        self.master: Any = tree_map(lambda array: array.astype(mx.float32), parameters) if is_half else None
        self.rule.init(self.master or parameters)
        self.is_whole = True  # False: an update failed half way, and weights and state belong to no step

    def step(self, model: nn.Module, gradients: Any, grad_norm: float, learning_rate: float) -> None:
        """One update of the model. Gradients of a norm above max_grad_norm are scaled down to it."""
        self.is_whole = False
        self.rule.learning_rate = learning_rate
        if grad_norm > self.max_grad_norm:
            scale = self.max_grad_norm / grad_norm
            gradients = tree_map(lambda gradient: gradient * scale, gradients)
        if self.master is None:
            self.rule.update(model, gradients)
        else:
            gradients = tree_map(lambda gradient: gradient.astype(mx.float32), gradients)
            self.master = self.rule.apply_gradients(gradients, self.master)
            parameters = model.trainable_parameters()
            model.update(tree_map(lambda new, old: new.astype(old.dtype), self.master, parameters))
        mx.eval(model.trainable_parameters(), self.rule.state, self.master or {})
        self.is_whole = True

    def arrays(self) -> dict[str, mx.array]:
        """Everything that a later run needs to go on, by name."""
        return flat({"rule": self.rule.state, "master": self.master or {}})

    @property
    def size(self) -> int:
        """Bytes of its state."""
        return sum(array.nbytes for array in self.arrays().values())

    def restore(self, arrays: dict[str, mx.array]) -> None:
        """Take back what `arrays` gave. Raises CheckpointError for another model's or another rule's."""
        self.rule.state = restored(arrays, self.rule.state, "rule")
        self.master = restored(arrays, self.master or {}, "master") or None
        mx.eval(self.rule.state, self.master or {})


def restored(saved: dict[str, mx.array], tree: Any, prefix: str) -> Any:
    """The tree with every array replaced by the saved one of its name.

    Raises CheckpointError where a name or a shape is not the same: it belongs to another model.
    """
    expected = {f"{prefix}.{name}": array for name, array in flat(tree).items()}
    wrong = [
        name
        for name in expected.keys() | {name for name in saved if name.startswith(f"{prefix}.")}
        if name not in saved or name not in expected or saved[name].shape != expected[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"The saved optimizer state does not fit: {', '.join(sorted(wrong)[:3])}",
            "resume with the settings the run was started with (model, `lora_rank`, `optimizer`, `dtype`)",
            trouble="optimizer-state",
        )
    return tree_map_with_path(
        lambda path, leaf: saved[f"{prefix}.{path}"] if isinstance(leaf, mx.array) else leaf, tree
    )


def make_rule(config: Config) -> optim.Optimizer:
    """The configured rule. AdamW as its paper has it, with bias correction (arXiv:1711.05101)."""
    betas, rate = [config.adam_beta1, config.adam_beta2], config.learning_rate
    if config.optimizer == "adamw":
        return optim.AdamW(rate, betas=betas, weight_decay=config.weight_decay, bias_correction=True)
    if config.optimizer == "adam":
        return optim.Adam(rate, betas=betas, bias_correction=True)
    if config.optimizer == "lion":
        return optim.Lion(rate, betas=betas, weight_decay=config.weight_decay)
    return optim.SGD(rate, weight_decay=config.weight_decay)
