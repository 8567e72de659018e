"""The optimizer's step: clip by global norm, update, and float32 master weights for half precision.

A step of 1e-6 is less than half the distance of two neighboring bfloat16 numbers, so rounding would discard
it; in float16 Adam's epsilon is 0 and its update NaN. For weights in half precision the optimizer therefore
updates a float32 copy, and the model gets it rounded (mixed-precision training, Micikevicius et al. 2018,
arXiv:1710.03740, section 3.1).

The update rules work array by array, so a few arrays are updated at a time, with the same result as all at
once. Besides weights, optimizer state and the rest of the gradient, memory then holds few new arrays.
"""

import time
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map, tree_map_with_path, tree_unflatten

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.cpu.adamw import ChunkedAdamW
from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.update.muon import MuonWithAdamW, matrices_of
from grpo_cli.errors import CheckpointError, TrainingError
from grpo_cli.models.tree import at, flat

Arrays = dict[str, mx.array]

AT_ONCE = 1 << 20  # numbers updated together; the array that reaches this count is included
KEPT = 1 << 21  # numbers of which the old arrays are kept until the new ones are computed: 8 MB a copy


class Optimizer:
    """The configured optimizer on a model's trainable parameters."""

    def __init__(self, config: Config, model: nn.Module) -> None:
        self.rule = make_rule(config, model)
        self.max_grad_norm = config.max_grad_norm
        parameters = model.trainable_parameters()
        is_half = any(array.dtype != mx.float32 for array in flat(parameters).values())
        if is_half:
            parameters = tree_map(lambda array: array.astype(mx.float32), parameters)
        self.rule.init(parameters)
        self.master: Arrays | None = flat(parameters) if is_half else None  # float32 copies, by name
        self.limit = RowLimit()  # answers failures of the device
        self.begun = 0  # updates begun so far; a snapshot with another count no longer matches the weights

    def step(self, model: nn.Module, gradients: Any, grad_norm: float, learning_rate: float) -> None:
        """Update the model once. A gradient with a norm above max_grad_norm is scaled down to it.

        The gradient tree is emptied, so that each array can be freed as soon as its weights are updated. A
        failure of the device is answered for each handful of arrays; if that does not help, Restart is
        raised, and `begun` tells if the weights are still those before the update.
        """
        self.begun += 1
        self.rule.learning_rate = learning_rate
        self.rule.state["step"] = self.rule.step + 1  # MLX's apply_gradients does this before its first array
        mx.eval(self.rule.state["step"], self.rule.learning_rate)
        scale = self.max_grad_norm / grad_norm if grad_norm > self.max_grad_norm else None
        left = flat(gradients)
        gradients.clear()
        updated = 0
        for names in handfuls(left):
            found = {name: left.pop(name) for name in names}
            try:
                self.update(model, found, scale)
            except TrainingError:
                if not updated:
                    self.begun -= 1  # nothing was changed
                    self.rule.state["step"] = self.rule.step - 1
                raise
            updated += len(names)

    def update(self, model: nn.Module, gradients: Arrays, scale: float | None) -> None:
        """Update a handful of arrays, again where the device fails: all of them or, by an error, none.

        The old arrays are kept meanwhile, unless they are so large that this would need much more memory;
        the error is then the device's own.
        """
        if sum(gradient.size for gradient in gradients.values()) > KEPT:
            return self.apply(model, gradients, scale)
        weights = {name: at(model, name) for name in gradients}
        states = {name: dict(at(self.rule.state, name)) for name in gradients}
        master = {name: self.master[name] for name in gradients} if self.master else {}
        while True:
            started = time.perf_counter()
            try:
                self.apply(model, dict(gradients), scale)
            except (RuntimeError, MemoryError) as error:
                model.update(tree_unflatten(list(weights.items())))
                for name, state in states.items():
                    at(self.rule.state, name).update(state)
                if self.master:
                    self.master.update(master)
                self.limit.answer(error, 1, time.perf_counter() - started, divisible=False)
            else:
                return self.limit.succeeded()

    def apply(self, model: nn.Module, gradients: Arrays, scale: float | None) -> None:
        """Update the arrays of these gradients, evaluated."""
        names = list(gradients)
        new = {name: self.renewed(name, at(model, name), gradients.pop(name), scale) for name in names}
        model.update(tree_unflatten(list(new.items())))
        states = [at(self.rule.state, name) for name in names]
        mx.eval(new, states, [self.master[name] for name in names] if self.master else [])

    def renewed(self, name: str, weight: mx.array, gradient: mx.array, scale: float | None) -> mx.array:
        """The updated weight, not evaluated. Also updates its optimizer state and float32 copy, if any."""
        gradient = gradient if scale is None else gradient * scale
        state = at(self.rule.state, name)
        if self.master is None:
            return self.rule.apply_single(gradient, weight, state)
        gradient = gradient.astype(mx.float32)
        self.master[name] = self.rule.apply_single(gradient, self.master[name], state)
        return self.master[name].astype(weight.dtype)

    def arrays(self) -> dict[str, mx.array]:
        """Everything that a checkpoint must hold of the optimizer, by name."""
        return flat({"rule": self.rule.state, "master": self.master or {}})

    @property
    def size(self) -> int:
        """Bytes of state and float32 copies."""
        return sum(array.nbytes for array in self.arrays().values())

    def restore(self, arrays: dict[str, mx.array]) -> None:
        """Restore the arrays of a checkpoint. Raises CheckpointError if they are of another model or rule."""
        self.rule.state = restored(arrays, self.rule.state, "rule")
        self.master = restored(arrays, self.master or {}, "master") or None
        mx.eval(self.rule.state, self.master or {})


def handfuls(arrays: Arrays) -> Iterator[list[str]]:
    """Group the names into batches of at least AT_ONCE numbers, small arrays first.

    The largest array needs the most memory for new weights and state, so it comes last, when all other
    gradients are freed.
    """
    names: list[str] = []
    count = 0
    for name in sorted(arrays, key=lambda name: arrays[name].size):
        names.append(name)
        count += arrays[name].size
        if count >= AT_ONCE:
            yield names
            names, count = [], 0
    if names:
        yield names


def restored(saved: dict[str, mx.array], tree: Any, prefix: str) -> Any:
    """The tree with every array replaced by the saved array of the same name.

    Raises CheckpointError if names or shapes differ, since the arrays then belong to another model.
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


def make_rule(config: Config, model: nn.Module | None = None) -> optim.Optimizer:
    """The configured MLX optimizer. AdamW is that of its paper, with bias correction (arXiv:1711.05101).

    `model`: only muon needs it, to choose the matrices. On a CPU Adam and AdamW are those of cpu/adamw.py.
    """
    betas, rate = [config.adam_beta1, config.adam_beta2], config.learning_rate
    if config.optimizer in ("adam", "adamw") and device.prepare().kind == "cpu":
        return ChunkedAdamW(rate, betas, config.weight_decay if config.optimizer == "adamw" else 0.0)
    if config.optimizer == "adamw":
        return optim.AdamW(rate, betas=betas, weight_decay=config.weight_decay, bias_correction=True)
    if config.optimizer == "muon":
        return MuonWithAdamW(
            rate=rate,
            matrices=matrices_of(model) if model else (),
            momentum=config.muon_momentum,
            betas=betas,
            weight_decay=config.weight_decay,
            adamw_share=config.adamw_learning_rate / rate if config.adamw_learning_rate and rate else 1.0,
        )
    if config.optimizer == "adam":
        return optim.Adam(rate, betas=betas, bias_correction=True)
    if config.optimizer == "lion":
        return optim.Lion(rate, betas=betas, weight_decay=config.weight_decay)
    return optim.SGD(rate, weight_decay=config.weight_decay)
