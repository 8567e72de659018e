"""Tensors for checkpoint writers, read lazily one at a time.

    tensor = OutgoingTensor("w", DTYPES["float32"], (2, 3), read=lambda: array, save_as=DTYPES["bfloat16"])
    tensor.write(file)      # only its numbers, cast a piece at a time

So memory holds one tensor instead of the model, and a cast adds a piece instead of a second tensor.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO

import numpy as np

from grpo_cli.convert.dtypes import Array, DType, cast
from grpo_cli.convert.options import Progress

PIECE = 1 << 18  # numbers cast and written at a time


@dataclass(frozen=True, kw_only=True)
class OutgoingTensor:
    """A tensor to write. `read` returns its numbers on demand, in the format `dtype` and in this shape.

    `save_as`: the floating format to write, if different.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    read: Callable[[], Array]
    save_as: DType | None = None

    @property
    def written(self) -> DType:
        return self.save_as or self.dtype

    @property
    def is_rounded(self) -> bool:
        """True if the output format cannot hold every number of the tensor's own format."""
        narrower = self.dtype.name in ("bfloat16", "float16") and self.written.name == "float32"
        return self.written != self.dtype and not narrower

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.count * self.written.size

    def write(self, file: IO[bytes]) -> None:
        """Write `size` bytes of numbers; releases them afterwards.

        Raises ValueError for numbers that do not match `dtype` and `shape`, or cannot be cast.
        """
        for piece in self.pieces():
            file.write(piece.data)

    def pieces(self) -> Iterator[Array]:
        """The numbers in the output format, flat and in pieces. Raises ValueError as `write` does."""
        values = self.read()
        if values.shape != self.shape or values.dtype != self.dtype.bits:
            raise ValueError(
                f"{self.name} is {values.dtype} {values.shape}, not {self.dtype.name} {self.shape}"
            )
        flat = values.reshape(-1)  # a copy only if the strides are irregular
        for start in range(0, flat.size, PIECE):
            piece = np.ascontiguousarray(flat[start : start + PIECE])  # for example every second number
            yield cast(piece, self.dtype, self.written)


def counted(tensors: Sequence[OutgoingTensor], stage: str, on_progress: Progress) -> list[OutgoingTensor]:
    """The same tensors; reading one reports the total bytes so far."""
    total = sum(tensor.size for tensor in tensors)
    done = 0

    def counting(tensor: OutgoingTensor) -> OutgoingTensor:
        def read() -> Array:
            nonlocal done
            on_progress(stage, done, total)
            done += tensor.size
            return tensor.read()

        return replace(tensor, read=read)

    return [counting(tensor) for tensor in tensors]


def check_distinct(tensors: Iterable[OutgoingTensor], reserved: Iterable[str] = ()) -> None:
    """Raise ValueError for a duplicate name, and for a name reserved by the format."""
    times = Counter([*reserved, *(tensor.name for tensor in tensors)])
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        raise ValueError(f"several tensors are named {', '.join(twice)}")
