"""Failed allocations: recognised by their words, and answered by halving what is computed at once.

    for result in with_halving(batch, compute, Microbatch.halves, limit.lower): ...

Metal and CUDA raise; a failed allocation on a CPU kills the process, which memory/verdict.py prevents.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import mlx.core as mx

from grpo_cli.errors import TrainingError

# How mlx words it: mlx/allocator.cpp, mlx/backend/metal/allocator.cpp, mlx/backend/cuda/allocator.cpp.
WORDS = (
    "Unable to allocate",
    "Attempting to allocate",
    "[metal::malloc]",
    "Insufficient Memory",
    "out of memory",
    "cudaErrorMemoryAllocation",
)

Work = TypeVar("Work", bound="Divisible")
Result = TypeVar("Result")


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words.lower() in text for words in WORDS)


class Divisible(Protocol):
    """Work on some rows."""

    rows: list[Any]


@dataclass
class RowLimit:
    """The most rows that were found to fit into memory at once; None: no failure yet."""

    rows: int | None = None
    on_lowering: Callable[[int], None] | None = None  # told of the new limit

    def lower(self, failed: int) -> None:
        """So many rows did not fit: half of them may."""
        self.rows = max(1, failed // 2)
        if self.on_lowering:
            self.on_lowering(self.rows)


def with_halving(
    work: Work,
    compute: Callable[[Work], Result],
    halves: Callable[[Work], tuple[Work, Work] | None],
    on_failure: Callable[[int], None],
) -> Iterator[Result]:
    """Compute some work, or its halves where memory does not allow it, in order.

    `halves` gives None for what cannot be divided. `on_failure` is told how many rows did not fit.
    Raises TrainingError (`Unable to allocate memory …`) where not even a single one fits.
    """
    waiting = [work]
    while waiting:
        part = waiting.pop(0)
        try:
            result = compute(part)
        except (RuntimeError, MemoryError) as error:
            if not is_allocation_failure(error):
                raise
            divided = halves(part)
            if divided is None:
                raise unable(str(error)) from error
        else:
            yield result
            continue
        on_failure(len(part.rows))
        mx.clear_cache()
        waiting = [*divided, *waiting]


def unable(reason: str) -> TrainingError:
    """The error for a single sequence that does not fit."""
    return TrainingError(
        f"Unable to allocate memory for a single sequence: {reason}",
        "lower `max_new_tokens` or `max_prompt_length`, train adapters only (`lora_rank = 16`), or choose a "
        "smaller model",
        trouble="memory-needed",
    )
