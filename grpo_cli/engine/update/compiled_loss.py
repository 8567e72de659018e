"""The loss and gradient of a microbatch, compiled by `mx.compile` once per bucket of shapes.

    compiled = CompiledLoss.of(config, model, plan, listener)      # None if compiling does not pay
    accumulate(model, batches, objective, compiled=compiled)

`mx.compile` traces a function of arrays, fuses elementwise operations and reuses the graph. Microbatches are
therefore padded to buckets (shape_buckets.py), and the model's weights are passed as arguments. This was run
on a CPU only, where it does not pay. As a safeguard the first gradient of a run is also computed without it
and compared; any difference or exception, then or later, turns compiling off and does not end the run.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.failures import failure_of
from grpo_cli.engine.update.activation_checkpoint import replaced
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.forward import ForwardPlan
from grpo_cli.engine.update.gradient import Found, LossAndGradient, global_norm
from grpo_cli.engine.update.objective import ForwardStats, Objective, microbatch_loss
from grpo_cli.engine.update.shape_buckets import Bucket, Most, PaddedBatch, pad_to_bucket
from grpo_cli.models.caches import has_only_keys
from grpo_cli.models.tree import flat

CACHE_SIZE = 32  # compiled functions in the cache; the least recently used is dropped
EXACT, ROUNDED = 1e-2, 0.25  # gradient tolerance relative to its norm: in float32, in half precision
Arrays = dict[str, mx.array]
Compiled = Callable[[Arrays, Arrays, Arrays], tuple[list[mx.array], Arrays]]


class CompiledLoss:
    """Compiled replacement of `nn.value_and_grad(model, microbatch_loss)`."""

    def __init__(self, model: nn.Module, most: Most, listener: events.Listener) -> None:
        self.model, self.most, self.listener = model, most, listener
        self.functions: OrderedDict[tuple[Bucket, Objective], Compiled] = OrderedDict()
        self.compilations = 0
        self.is_off = self.was_compared = False

    @staticmethod
    def of(
        config: Config, model: nn.Module, plan: ForwardPlan, listener: events.Listener
    ) -> "CompiledLoss | None":
        """The CompiledLoss of a run; None on a CPU, with use_compile = false, or without shared keys."""
        if not (config.use_compile and device.prepare().compile and plan.share_prefix):
            return None
        if not has_only_keys(model, windows=True):
            return None
        rows = config.prompts_per_step * config.num_generations
        return CompiledLoss(model, Most(config.max_new_tokens, config.max_prompt_length - 1, rows), listener)

    def __call__(self, model: nn.Module, batch: Microbatch, objective: Objective) -> Found:
        """((loss, measured), gradients); evaluated if they come from the compiled function."""
        plainly: LossAndGradient = nn.value_and_grad(model, microbatch_loss)
        if self.is_off:
            return plainly(model, batch, objective)
        try:
            found = self.compute(batch, objective)
        except (RuntimeError, ValueError, TypeError) as error:  # also out of memory: padding needs more
            failure = failure_of(error)
            if failure is not None and failure.answer not in ("halve", "plain"):
                raise  # not due to compiling: recovery.py answers it
            self.give_up(str(error).strip().partition("\n")[0] or type(error).__name__)
            return plainly(model, batch, objective)
        if self.was_compared:
            return found
        plain = plainly(model, batch, objective)
        self.compare(found, plain)
        return found if self.was_compared and not self.is_off else plain

    def compute(self, batch: Microbatch, objective: Objective) -> Found:
        """((loss, measured), gradients) by the compiled function of the batch's bucket, evaluated."""
        padded = pad_to_bucket(batch, self.most)
        trained = flat(self.model.trainable_parameters())
        frozen = {name: array for name, array in flat(self.model.parameters()).items() if name not in trained}
        function = self.function_for(padded, objective)
        (loss, *measured), gradients = function(trained, frozen, padded.arrays)
        mx.eval(loss, measured, gradients)
        stats = ForwardStats(*measured)
        rows, width = batch.targets.shape
        tree: Any = tree_map_with_path(lambda name, _: gradients[name], self.model.trainable_parameters())
        return (loss, stats._replace(logprobs=stats.logprobs[:rows, :width])), tree

    def function_for(self, padded: PaddedBatch, objective: Objective) -> Compiled:
        """The compiled function of a bucket, from the cache or new."""
        key = (padded.bucket, objective)
        if key not in self.functions:
            self.functions[key] = compiled(self.model, padded.old_is_current, objective)
            self.compilations += 1
            if len(self.functions) > CACHE_SIZE:
                self.functions.popitem(last=False)
        self.functions.move_to_end(key)
        return self.functions[key]

    def drop(self) -> None:
        """Free the compiled functions with their buffers; each is compiled again when it is needed."""
        self.functions.clear()

    def compare(self, found: Found, plain: Found) -> None:
        """Turn compiling off if its gradient differs from the plain one; skipped if that is 0 or NaN."""
        expected, gradients = flat(plain[1]), flat(found[1])
        norm = global_norm(expected)
        off = global_norm({name: gradients[name] - expected[name] for name in expected})
        if not 0.0 < norm < math.inf:
            return
        self.was_compared = True
        exact = all(array.dtype == mx.float32 for array in flat(self.model.parameters()).values())
        if not off <= (EXACT if exact else ROUNDED) * norm:
            self.give_up(f"its gradient differs from the plain one by {off / norm:.2g} of its norm")

    def give_up(self, reason: str) -> None:
        """Turn compiling off and report the reason."""
        self.is_off = True
        self.functions.clear()
        mx.clear_cache()
        self.listener(
            events.Notice(
                f"the compiled update is not used: {reason}. The run continues without it, with the same "
                "result; `use_compile = false` skips this attempt"
            )
        )


def compiled(model: nn.Module, old_is_current: bool, objective: Objective) -> Compiled:
    """A compiled function (trained, frozen, batch arrays) → ([loss, *measured], gradients by name)."""

    def compute(trained: Arrays, frozen: Arrays, arrays: Arrays) -> tuple[list[mx.array], Arrays]:
        batch = PaddedBatch(**arrays, old_is_current=old_is_current)

        def loss_of(weights: Arrays) -> tuple[mx.array, list[mx.array]]:
            with replaced(model, {**weights, **frozen}):
                loss, measured = microbatch_loss(model, batch, objective)
            return loss, list(measured)

        (loss, measured), gradients = mx.value_and_grad(loss_of)(trained)
        return [loss, *measured], gradients

    function: Any = mx.compile(compute)
    return function
