"""Out-of-memory recovery: recognize the backend's error text and retry with half the rows.

    for result in with_halving(batch, compute, Microbatch.halves, limit.lower): ...

Metal and CUDA raise an exception. On a CPU the system kills the process, so memory/verdict.py estimates the
need beforehand.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import mlx.core as mx

from grpo_cli.errors import TrainingError

# MLX's error texts: mlx/allocator.cpp, mlx/backend/metal/allocator.cpp, mlx/backend/cuda/allocator.cpp.
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
    """True if an exception reports a failed memory allocation."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words.lower() in text for words in WORDS)


class Divisible(Protocol):
    """Work that consists of rows."""

    rows: list[Any]


@dataclass
class RowLimit:
    """Maximum number of rows that fit into memory at once; None = no failure yet."""

    rows: int | None = None
    on_lowering: Callable[[int], None] | None = None  # called with the new limit

    def lower(self, failed: int) -> None:
        """Lower the limit to half of the rows that did not fit."""
        self.rows = max(1, failed // 2)
        if self.on_lowering:
            self.on_lowering(self.rows)


def with_halving(
    work: Work,
    compute: Callable[[Work], Result],
    halves: Callable[[Work], tuple[Work, Work] | None],
    on_failure: Callable[[int], None],
) -> Iterator[Result]:
    """Compute `work`, split into halves as often as memory requires; yields the results in order.

    `halves` returns None for work that cannot be split. `on_failure` is called with the number of rows that
    did not fit. Raises TrainingError (`Unable to allocate memory …`) if a single row does not fit.
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
