"""What a person asks of a conversion, and what it tells while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DTypeName = Literal["bfloat16", "float16", "float32"]

# (what is being done, how much of it, of how much): bytes; 0 of 0 where it cannot be counted
Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """For those who do not watch."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `grpo convert`."""

    output: Path | None = None  # None: models/<name>-mlx
    quantize: bool = False
    bits: int = 4
    group_size: int = 64
    dtype: DTypeName | None = None  # None: the widest in the source, so that nothing is rounded
    step: int | None = None
    renames: tuple[str, ...] = ()
    force: bool = False
    verify: bool = True
    trust_remote_code: bool = False  # a tokenizer may run the code that its folder brings


@dataclass(frozen=True)
class Check:
    """One thing that was verified, or could not be."""

    name: str
    passed: bool
    seen: str


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A conversion that was done."""

    output: Path
    source_bytes: int  # of the weights' files
    output_bytes: int
    parameters: int
    layers: int
    is_nanochat: bool = True

    @property
    def bits_per_weight(self) -> float:
        """Of the result."""
        return 8 * self.output_bytes / max(self.parameters, 1)


OnCheck = Callable[[Check], None]


def no_check(check: Check) -> None:
    """For those who do not watch."""
