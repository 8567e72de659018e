"""Logprobs and entropies of completion tokens, with the logits computed in slices.

    head = find_head(model)
    scores = head.scores(model, hidden, targets, temperature=1.0, entropy=False)    # (2, B, S)

The logits of one token have one number per vocabulary entry, so those of a whole batch are often the largest
array in memory. The model is therefore split into trunk (token ids → hidden states) and head (hidden states →
logits), and the head runs on a slice of the tokens at a time, in the forward and again in the backward. The
result is exact. The cost is a second forward of the head.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from grpo_cli import device
from grpo_cli.cpu.exact_sums import logsumexp
from grpo_cli.cpu.lazy import after
from grpo_cli.engine.grpo.entropy import logprobs_and_entropies
from grpo_cli.models.same_logits import same_logits
from grpo_cli.models.tree import flat

SLICE = 1 << 23  # logits per slice: half of them cost a fifth more time, twice of them half the memory again
TRUNKS = ("model", "transformer", "hidden_states")  # modules of mlx-lm's models; a method of our nanochat_v2
METHOD_HEAD = "lm_head."  # prefix of the head's weights if the trunk is a method
PROBE_IDS = ((1, 2, 3),)  # token ids on which a model and its parts are compared


class _Trunk:
    """Replaces a model's trunk and returns hidden states that were computed before.

    `used`: names of the trunk's modules that the head uses, such as an embedding that is its matrix, too.
    """

    def __init__(self, trunk: Any, hidden: mx.array, used: set[str]) -> None:
        self._real, self._hidden, self._used = trunk, hidden, used

    def __call__(self, *_: Any, **__: Any) -> mx.array:
        return self._hidden

    def __getattr__(self, name: str) -> Any:
        self._used.add(name)
        return getattr(self._real, name)


class _WithoutTrunk:
    """Replaces a model whose trunk already ran: calling the model's class on it runs the head only."""

    def __init__(self, model: nn.Module, name: str, hidden: mx.array, used: set[str]) -> None:
        # Attribute names that no model uses: a llama calls its trunk `model`.
        self._whole, self._name, self._stand_in = model, name, _Trunk(getattr(model, name), hidden, used)

    def __getattr__(self, name: str) -> Any:
        return self._stand_in if name == self._name else getattr(self._whole, name)


@dataclass(frozen=True)
class Head:
    """The output head of a model: hidden states → logits.

    `trunk`: name of the rest of the model, a module or a method. `weights`: names of the weights that it
    uses, those of a tied embedding included.
    """

    trunk: str
    weights: tuple[str, ...]
    vocabulary: int

    def logits(self, model: nn.Module, hidden: mx.array, used: set[str] | None = None) -> mx.array:
        """Logits (…, V) of hidden states (…, H). Adds to `used` the trunk's modules that the head uses."""
        rest: Any = _WithoutTrunk(model, self.trunk, hidden, set() if used is None else used)
        result: mx.array = type(model).__call__(rest, mx.zeros(hidden.shape[:-1], dtype=mx.int32))
        return result

    def scores(
        self, model: nn.Module, hidden: mx.array, targets: mx.array, temperature: float, entropy: bool
    ) -> mx.array:
        """Logprobs of the targets (B, S), and entropies (zeros without `entropy`): (2, B, S) float32."""
        trained = flat(model.trainable_parameters())
        names = [name for name in self.weights if name in trained]
        width = max(1, SLICE // self.vocabulary)  # tokens per slice
        flat_targets = targets.reshape(-1)

        def one(start: int, states: mx.array, *weights: mx.array) -> mx.array:
            kept = [(name, flat(model.parameters())[name]) for name in names]
            model.update(tree_unflatten(list(zip(names, weights, strict=True))))
            logits = self.logits(model, states[None])[0].astype(mx.float32) / temperature  # (s, V)
            model.update(tree_unflatten(kept))
            wanted = flat_targets[start : start + width]
            if entropy:
                return mx.stack(list(logprobs_and_entropies(logits, wanted)))
            return mx.stack([chosen_logprobs(logits, wanted), mx.zeros(wanted.shape)])

        states = hidden.reshape(-1, hidden.shape[-1])
        result = in_slices(one, width)(states, *(trained[name] for name in names))
        return result.reshape(2, *targets.shape)


def in_slices(function: Any, width: int) -> Any:
    """`function(start, rows, *weights)` over slices of `width` rows, with the results concatenated.

    Slices are computed one after the other, and again in the backward, so only one is in memory at a time.
    Results are joined along the last axis. Gradients flow to all rows and to the weights.
    """

    @mx.custom_function
    def forward(rows: mx.array, *weights: mx.array) -> mx.array:
        results: list[mx.array] = []
        for start in range(0, rows.shape[0], width):
            part = after(rows[start : start + width], results[-1:])
            results.append(function(start, part, *weights))
        return mx.concatenate(results, axis=-1)

    def backward(primals: Any, cotangent: mx.array, result: mx.array) -> tuple[mx.array, ...]:
        del result
        rows, *weights = primals if isinstance(primals, list | tuple) else [primals]
        row_gradients: list[mx.array] = []
        totals: list[mx.array] = []
        for start in range(0, rows.shape[0], width):
            part = after(rows[start : start + width], [*row_gradients[-1:], *totals])
            _, found = mx.vjp(
                lambda *arrays, start=start: function(start, *arrays),
                [part, *weights],
                [cotangent[..., start : start + width]],
            )
            row_gradients.append(found[0])
            totals = [a + b for a, b in zip(totals, found[1:], strict=True)] if totals else list(found[1:])
        return (mx.concatenate(row_gradients), *totals)

    forward.vjp(backward)
    return forward


def chosen_logprobs(logits: mx.array, targets: mx.array) -> mx.array:
    """Logprobs (…) of the targets (…) from logits (…, V); one fused kernel each way on Metal and CUDA."""
    if device.prepare().kind != "cpu":
        return -mx.fast.cross_entropy(logits, targets)
    chosen = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    return chosen - logsumexp(logits)


def find_head(model: nn.Module) -> Head | None:
    """The model's head, tested on a few tokens; None if trunk and head give other logits than the model."""
    ids = mx.array(PROBE_IDS)
    expected = model(ids)
    names = flat(model.parameters())
    for trunk in TRUNKS:
        if not callable(part := getattr(model, trunk, None)):
            continue
        if isinstance(part, nn.Module):
            own = [name for name in names if not name.startswith(f"{trunk}.")]
        else:
            own = [name for name in names if name.startswith(METHOD_HEAD)]
        used: set[str] = set()
        try:
            found = Head(trunk, (), expected.shape[-1]).logits(model, part(ids), used)
        except (TypeError, ValueError, AttributeError, KeyError):  # the model combines its parts differently
            continue
        if same_logits(found, expected):
            starts = tuple(f"{trunk}.{name}." for name in used)
            tied = [name for name in names if name.startswith(starts)]
            return Head(trunk, (*own, *tied), expected.shape[-1])
    return None
