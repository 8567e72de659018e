"""Recovery from failures of the device: every class of failures (failures.py) gets its own answer.

    for result in with_recovery(batch, compute, limit): ...

Memory: at most half the rows at once. A watchdog (GPU timeout, interactivity): smaller command buffers. The
resource limit: compiled functions and cache are dropped, not rows. A reset by another program: the same once
more. None of them changes the result. An error that needs more ends the work: Restart asks for a new process,
which continues from the last saved step (cli/restart.py), and DeviceLost ends the run.

On a CPU the system kills a process that runs out of memory, so memory/verdict.py estimates the need before.
"""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import mlx.core as mx

from grpo_cli.engine.failures import Failure, failure_of
from grpo_cli.errors import TrainingError

MOST_REPEATS = 3  # attempts at the same work, unchanged, before a new process is asked for
PREFILL_TOKENS = 2048  # prompt tokens per forward: bounds memory and changes no result
FEWEST_PREFILL_TOKENS = 128  # so few take milliseconds
# MLX reads these when it first computes. Its default on Metal is 20 to 50 operations and 40 to 50 MB.
SMALL_BUFFERS = {"MLX_MAX_OPS_PER_BUFFER": "4", "MLX_MAX_MB_PER_BUFFER": "8"}

Work = TypeVar("Work", bound="Divisible")
Result = TypeVar("Result")


class Restart(TrainingError):
    """A failure that only a new process can answer. `environment`: variables to set for it.

    `run_dir`: the folder that it can resume; the training loop sets it.
    """

    run_dir: Path | None = None

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(
            f"The device failed ({failure.name}): {first_line(reason)}",
            "resume the run: a new process starts with a fresh device",
            trouble=failure.chapter,
        )
        self.failure = failure
        self.environment = SMALL_BUFFERS if failure.answer in ("shrink", "restart") else {}


class DeviceLost(TrainingError):
    """The device is gone, or refuses this process."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: `--supervise` may try again

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(
            f"The device is lost: {first_line(reason)}",
            "check its cable, driver and temperature; then resume the run",
            trouble=failure.chapter,
        )
        self.failure = failure


def first_line(reason: str) -> str:
    """The first line of a message of MLX."""
    return reason.strip().partition("\n")[0]


def ending_of(error: BaseException) -> BaseException:
    """The error that ends a run: a failure of the device as Restart or DeviceLost, any other unchanged."""
    failure = failure_of(error)
    if failure is None or failure.answer == "plain":
        return error
    return (DeviceLost if failure.answer == "end" else Restart)(failure, str(error))


class Divisible(Protocol):
    """Work that consists of rows."""

    rows: list[Any]

    def in_rows(self, most: int | None) -> list[Any]:
        """The work in parts of at most so many rows; None = no limit."""


@dataclass(frozen=True)
class Answered:
    """One failure and the answer to it."""

    failure: Failure
    reason: str  # the error's first line
    done: str  # "at most 4 completions at once"
    seconds: float  # of the attempt that failed


def silent(answered: Answered) -> None:
    """No-op listener."""


def nothing_to_drop() -> None:
    """No compiled functions."""


@dataclass
class RowLimit:
    """The amount of one kind of work that the device can do at once, learned from its failures."""

    rows: int | None = None  # None = no limit yet
    prefill_tokens: int = PREFILL_TOKENS
    on_answer: Callable[[Answered], None] = silent
    drop_compiled: Callable[[], None] = nothing_to_drop
    repeats: int = field(default=0, init=False)  # of the same work, unchanged

    def lower(self, failed: int) -> int:
        """Lower the limit to at most half of the rows that were too many; returns it."""
        self.rows = half_of(failed)
        return self.rows

    def is_exceeded_by(self, rows: int) -> bool:
        """True if so many rows are known to be too many."""
        return self.rows is not None and rows > self.rows

    def answer(
        self, error: BaseException, rows: int, seconds: float = 0.0, *, divisible: bool = True
    ) -> None:
        """Answer a failure of `rows` rows, so that the caller can try once more.

        `rows` above the limit then have to be divided. `divisible`: False for work that is only repeated.
        Raises the error itself if it is no failure of the device, TrainingError (`Unable to allocate memory
        …`) if memory cannot hold a single row, Restart and DeviceLost.
        """
        failure = failure_of(error)
        if failure is None:
            raise error
        if failure.answer == "end":
            raise DeviceLost(failure, str(error)) from error
        if failure.answer == "restart":
            raise Restart(failure, str(error)) from error
        divides = failure.answer in ("halve", "shrink") and rows > 1 and divisible
        if divides:
            self.lower(rows)
        if failure.answer == "shrink" and divisible and self.prefill_tokens > FEWEST_PREFILL_TOKENS:
            self.prefill_tokens //= 2
        elif not divides:
            self._repeat(failure, error, divisible)
        gc.collect()  # arrays in the failed attempt's reference cycles
        mx.clear_cache()
        self.on_answer(
            Answered(failure, first_line(str(error)), self._done(failure, divides, divisible), seconds)
        )

    def _repeat(self, failure: Failure, error: BaseException, divisible: bool) -> None:
        """Prepare to try the same work again. Raises TrainingError or Restart if that is pointless."""
        if failure.answer == "shrink" and divisible:
            raise Restart(failure, str(error)) from error
        self.repeats += 1
        if failure.answer == "halve" and divisible and self.repeats > 1:  # not a moment's shortage
            raise unable(str(error)) from error
        if failure.answer == "plain":
            if self.repeats > 1:
                raise error
            mx.disable_compile()
        elif self.repeats > (1 if failure.answer == "drop" else MOST_REPEATS):
            raise Restart(failure, str(error)) from error
        self.drop_compiled()

    def _done(self, failure: Failure, divides: bool, divisible: bool) -> str:
        rows = f"at most {self.rows} {'completion' if self.rows == 1 else 'completions'} at once"
        if divides:
            return rows
        if failure.answer == "shrink" and divisible:
            return f"at most {self.prefill_tokens} prompt tokens at once"
        if failure.answer == "plain":
            return "mx.compile is switched off"
        return "the cache was dropped, and the same computed again"

    def succeeded(self) -> None:
        """The work was done: the next failure is another one."""
        self.repeats = 0


def half_of(rows: int) -> int:
    """At most half of the rows: a power of two, so that parts always consist of the parts of a lower limit.

    A part that is divided after its failure then gives the same bits as under that limit from the start.
    """
    half = max(1, rows // 2)
    return 1 << (half.bit_length() - 1)


def with_recovery(work: Work, compute: Callable[[Work], Result], limit: RowLimit) -> Iterator[Result]:
    """Compute `work`, repeated or divided as the device requires; yields the results in order.

    Raises the errors of `RowLimit.answer`.
    """
    waiting = [work]
    while waiting:
        part = waiting.pop(0)
        if limit.is_exceeded_by(len(part.rows)):  # also the parts not tried yet
            waiting = [*part.in_rows(limit.rows), *waiting]
            continue
        started = time.perf_counter()
        try:
            result = compute(part)
        except (RuntimeError, MemoryError) as error:
            limit.answer(error, len(part.rows), time.perf_counter() - started)
            waiting = [part, *waiting]
        else:
            limit.succeeded()
            yield result


def unable(reason: str) -> TrainingError:
    """The error for a single sequence that does not fit."""
    return TrainingError(
        f"Unable to allocate memory for a single sequence: {reason}",
        "lower `max_new_tokens` or `max_prompt_length`, train adapters only (`lora_rank = 16`), or choose a "
        "smaller model",
        trouble="memory-needed",
    )
