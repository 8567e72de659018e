"""What a writer of checkpoints is given: tensors that are read only when it is their turn.

    tensor = OutgoingTensor("w", DTYPES["float32"], (2, 3), read=lambda: array, save_as=DTYPES["bfloat16"])
    tensor.write(file)      # its numbers alone, cast a piece at a time

So memory holds one tensor and not the model, and a cast adds a piece of it and not a second tensor.
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
    """A tensor to write. `read` gives its numbers, of the format `dtype` and in this shape, when asked.

    `save_as`: the format to write, where that is another floating one.
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
        """Whether the format to write cannot hold every number of the tensor's own."""
        narrower = self.dtype.name in ("bfloat16", "float16") and self.written.name == "float32"
        return self.written != self.dtype and not narrower

    @property
    def count(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.count * self.written.size

    def write(self, file: IO[bytes]) -> None:
        """Write its numbers: `size` bytes. Nothing of them is held any more afterwards.

        Raises ValueError for numbers that are not what `dtype` and `shape` say, or cannot be cast.
        """
        for piece in self.pieces():
            file.write(piece.data)

    def pieces(self) -> Iterator[Array]:
        """Its numbers in the format to write, flat and some at a time. Raises ValueError as `write` does."""
        values = self.read()
        if values.shape != self.shape or values.dtype != self.dtype.bits:
            raise ValueError(
                f"{self.name} is {values.dtype} {values.shape}, not {self.dtype.name} {self.shape}"
            )
        flat = values.reshape(-1)  # a copy only where the tensor's strides are of several kinds
        for start in range(0, flat.size, PIECE):
            piece = np.ascontiguousarray(flat[start : start + PIECE])  # every second number, say
            yield cast(piece, self.dtype, self.written)


def counted(tensors: Sequence[OutgoingTensor], stage: str, on_progress: Progress) -> list[OutgoingTensor]:
    """The same tensors; reading one reports how many bytes have been handed out."""
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
    """Raise ValueError for two tensors of one name, and for a name that the format keeps for itself."""
    times = Counter([*reserved, *(tensor.name for tensor in tensors)])
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        raise ValueError(f"several tensors are named {', '.join(twice)}")
