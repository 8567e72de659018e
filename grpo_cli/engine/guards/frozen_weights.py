"""Check that training moves the weights: the first update with a gradient must change them.

    before = sample(arrays)                  # a few thousand numbers of every trained array
    …                                        # the update
    moved(before, sample(arrays))            # ‖after − before‖ / ‖before‖

A run with frozen weights continues for hours and looks like one that learns slowly. It has three possible
causes: nothing is trained (no gradient), the change is smaller than the rounding of the weights, or the
update does not reach the weights. Each has its own error and stops the run. If the learning rate is 0 or
below half of its peak (warmup, end of a schedule), unchanged weights prove nothing, and the next update is
checked instead.
"""

import math
from dataclasses import dataclass

import mlx.core as mx

from grpo_cli.config.schema import Config
from grpo_cli.cpu.exact_sums import total
from grpo_cli.errors import TrainingError

SAMPLE = 4096  # numbers sampled from each array
# Root mean square of the rounding of a number: about a quarter of its dtype's epsilon (ε/√12 of the power of
# two below it).
NOISE = {mx.float32: 2.0**-25, mx.float16: 2.0**-12, mx.bfloat16: 2.0**-9}

Arrays = dict[str, mx.array]


def sample(arrays: Arrays) -> Arrays:
    """A copy of up to SAMPLE evenly spaced numbers of every array, in float32."""
    chosen = {
        name: array.reshape(-1)[:: math.ceil(array.size / SAMPLE)].astype(mx.float32) + 0.0
        for name, array in arrays.items()
    }
    mx.eval(chosen)
    return chosen


def norm(arrays: Arrays) -> float:
    """Euclidean norm of all arrays together, in float32."""
    return math.sqrt(math.fsum(float(total(array.astype(mx.float32).square())) for array in arrays.values()))


def moved(before: Arrays, after: Arrays) -> float:
    """Relative change ‖after − before‖ / ‖before‖; infinite if the weights were all 0 before."""
    change, size = norm({name: after[name] - before[name] for name in before}), norm(before)
    return change / size if size else math.inf * change if change else 0.0


@dataclass
class WeightsMoved:
    """Check of a run's updates until one is seen to move the weights (`is_given`)."""

    config: Config
    is_given: bool = False
    before: Arrays | None = None

    def begin(self, arrays: Arrays) -> None:
        """Sample the weights before an update. Raises TrainingError if no weight is trainable."""
        if not arrays:
            raise frozen("no weight is trainable")
        self.before = sample(arrays)

    def end(self, arrays: Arrays, grad_norm: float, rate: float) -> None:
        """Compare the weights after an update with non-zero advantages.

        Raises TrainingError if they are unchanged although the update should have moved them.
        """
        if grad_norm == 0.0:
            raise frozen("the gradient of every weight is exactly 0, though the advantages are not")
        change = moved(self.before or {}, sample(arrays))
        noise = max(NOISE[array.dtype] for array in arrays.values())
        self.before, self.is_given = None, change > noise
        if self.is_given or rate < self.config.learning_rate / 2 or rate == 0.0:
            return
        asked = self.asked(arrays, grad_norm, rate)
        dtype = str(max(arrays.values(), key=lambda array: NOISE[array.dtype]).dtype).rpartition(".")[2]
        told = f"the weights changed by {change:.1g} of their size, rounding in {dtype} is {noise:.1g}"
        raise swallowed(told, rate, asked) if asked <= 4 * noise else lost(told, asked)

    def asked(self, arrays: Arrays, grad_norm: float, rate: float) -> float:
        """The largest change that the optimizer can request, relative to the norm of the weights.

        The first step of Adam and Lion changes every number by the learning rate, that of SGD by the learning
        rate times the clipped gradient.
        """
        count = sum(array.size for array in arrays.values())
        is_sgd = self.config.optimizer == "sgd"
        step = min(grad_norm, self.config.max_grad_norm) if is_sgd else math.sqrt(count)
        return rate * step / (norm(arrays) or 1.0)


def frozen(why: str) -> TrainingError:
    """The error for a run without trainable weights or without a gradient."""
    return TrainingError(
        f"Nothing is learned: {why}",
        "the model is frozen, or its output does not depend on what is trained; train adapters "
        "(`lora_rank = 16`), or all weights of a model that is not quantized (`lora_rank = 0`)",
    )


def swallowed(told: str, rate: float, asked: float) -> TrainingError:
    """The error for an update smaller than the rounding of the weights."""
    return TrainingError(
        f"Nothing is learned: learning_rate = {rate:.3g} is lost in rounding: {told}, and the update "
        f"is at most {asked:.1g}",
        'raise `learning_rate`: 1e-6 is usual for full fine-tuning, 1e-5 for adapters; `optimizer = "sgd"` '
        "needs far more than `adamw`",
    )


def lost(told: str, asked: float) -> TrainingError:
    """The error for an update that is large enough but leaves the weights unchanged."""
    return TrainingError(
        f"Nothing is learned: the update does not reach the weights: {told}, and the update is at most "
        f"{asked:.1g}",
        "something holds the weights fixed; report it with `grpo doctor --report FILE`",
    )
