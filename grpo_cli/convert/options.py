"""Options, progress callbacks and results of a conversion."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DTypeName = Literal["bfloat16", "float16", "float32"]

# (stage, done, total) in bytes; 0 of 0 if it cannot be counted
Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """No-op progress callback."""


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
    trust_remote_code: bool = False  # the tokenizer may run its folder's code


@dataclass(frozen=True)
class CheckResult:
    """A verification and its result."""

    name: str
    passed: bool
    seen: str


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The result of a conversion."""

    output: Path
    source_bytes: int  # size of the weight files
    output_bytes: int
    parameters: int
    layers: int
    is_nanochat: bool = True

    @property
    def bits_per_weight(self) -> float:
        """Bits per parameter of the result."""
        return 8 * self.output_bytes / max(self.parameters, 1)


OnCheck = Callable[[CheckResult], None]


def no_check(check: CheckResult) -> None:
    """No-op callback for checks."""
