"""Counts of one decoding step: calls into MLX, evaluations, graph nodes and bytes read, on any device.

    count = decoding_counts(lambda tokens: generate(…, max_new_tokens=tokens))
    count.evaluations                # {"async_eval": 1.0, "tolist": 3.0} per step

Two lengths are sampled, and the difference is divided by the steps between them: what is done once cancels.
Counted are calls from Python of MLX's functions and of an array's methods and operators, not its properties
or constructor. Reads through the buffer protocol are seen only for `numpy.array` and `numpy.asarray`.
"""

import functools
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

SHORT, LONG = 8, 24  # tokens; both inside one allocation of mlx-lm's caches, of 256
SUBMITTING = {"eval", "async_eval"}
READING = {"item", "tolist", "__int__", "__float__", "__bool__", "__index__", "array", "asarray"}
# Their result is a view of the operand, or reads only as much as it returns.
VIEWS = {
    "__getitem__", "reshape", "transpose", "swapaxes", "squeeze", "expand_dims", "flatten", "unflatten",
    "moveaxis", "split", "broadcast_to", "stop_gradient", "take", "take_along_axis", "depends",
}  # fmt: skip
GATHERS = {"__getitem__", "take", "take_along_axis"}
UNCOUNTED = {"__init__", "__new__", "__getattr__", "__getattribute__", "__setattr__", "__hash__", "__repr__"}
MODULES = (mx, mx.fast, mx.random, mx.linalg)


@dataclass
class Counts:
    """Counts of a block of `counting`, or per step."""

    calls: float = 0  # of MLX's functions, methods and operators
    nodes: float = 0  # primitives of the graphs that were evaluated
    late_nodes: float = 0  # those of them that were submitted only when the host read a value
    bytes_read: float = 0  # by all calls, operands of views left out
    host_seconds: float = 0  # processor time of the Python thread, not counting anything meanwhile
    evaluations: Counter[str] = field(default_factory=Counter)  # by name
    order: list[str] = field(default_factory=list)  # of the evaluations, by name

    def per_step(self, shorter: "Counts", steps: int) -> "Counts":
        """The difference to a shorter run, per step."""
        numbers = {
            name: (value - getattr(shorter, name)) / steps
            for name, value in vars(self).items()
            if isinstance(value, int | float)
        }
        more = {name: (n - shorter.evaluations[name]) / steps for name, n in self.evaluations.items()}
        return Counts(**numbers, evaluations=Counter({name: n for name, n in more.items() if n}))

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "order"}


def decoding_counts(sample: Callable[[int], Any], short: int = SHORT, long: int = LONG) -> Counts:
    """Counts of one decoding step of `sample`, which is called with the number of new tokens."""
    sample(short)  # what happens once in a process is not counted
    return counts_of(lambda: sample(long)).per_step(counts_of(lambda: sample(short)), long - short)


def counts_of(work: Callable[[], Any]) -> Counts:
    """Counts of a piece of work, and in a second run the processor time of its Python thread."""
    with counting() as counts:
        work()
    start = time.thread_time()
    work()
    counts.host_seconds = time.thread_time() - start
    return counts


@contextmanager
def counting() -> Iterator[Counts]:
    """Count within the block."""
    counts, depth = Counts(), [0]
    places: list[tuple[Any, str]] = [
        *((module, name) for module in MODULES for name in vars(module) if is_function(module, name)),
        *((mx.array, name) for name in vars(mx.array) if is_function(mx.array, name)),
        (np, "array"),
        (np, "asarray"),
    ]
    old = {place: getattr(*place) for place in places}
    try:
        for (owner, name), function in old.items():
            setattr(owner, name, counted(function, name, owner, counts, depth))
        yield counts
    finally:
        for (owner, name), function in old.items():
            setattr(owner, name, function)


def is_function(owner: Any, name: str) -> bool:
    """True for a function of MLX's that can be replaced."""
    return type(getattr(owner, name)).__name__ in ("nb_func", "nb_method") and name not in UNCOUNTED


def counted(function: Any, name: str, owner: Any, counts: Counts, depth: list[int]) -> Any:
    """The function with its calls counted; calls that it makes itself are part of it."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if depth[0] or (owner is np and not any(isinstance(one, mx.array) for one in arguments)):
            return function(*arguments, **options)
        depth[0] += 1
        try:
            return observed(function, name, counts, arguments, options)
        finally:
            depth[0] -= 1

    return call


def observed(function: Any, name: str, counts: Counts, arguments: Any, options: Any) -> Any:
    """Call a function of MLX's and count the call, what it evaluates and what it reads."""
    arrays = arrays_in([*arguments, *options.values()])
    counts.calls += 1
    if name in SUBMITTING | READING:
        nodes = primitives(arrays)
        counts.evaluations[name] += 1
        counts.order.append(name)
        counts.nodes += nodes
        counts.late_nodes += 0 if name in SUBMITTING else nodes
    elif name == "__setitem__":
        arrays = arrays[1:]  # written in place
    result = function(*arguments, **options)
    if name in GATHERS and any(array is not arrays[0] for array in arrays[1:]):
        counts.bytes_read += sum(array.nbytes for array in arrays_in([result]))
    elif name not in SUBMITTING | READING | VIEWS:
        counts.bytes_read += sum(array.nbytes for array in arrays)
    return result


def arrays_in(value: Any) -> list[mx.array]:
    """All arrays of nested lists, tuples and dictionaries."""
    if isinstance(value, mx.array):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [array for one in inner for array in arrays_in(one)]


def primitives(arrays: list[mx.array]) -> int:
    """Primitives of the graph of these arrays that are not evaluated yet."""
    text: Any = io.StringIO()
    mx.export_to_dot(text, *arrays)
    return int(text.getvalue().count("shape=rectangle"))
