"""Read a PyTorch checkpoint without torch: one tensor at a time, memory-mapped, without executing it.

    with TorchFile(Path("model_000650.pt")) as checkpoint:
        checkpoint.tensors["lm_head.weight"].shape   # (1000, 64), known from the index alone
        checkpoint.read("lm_head.weight")            # its numbers, checksum compared

bfloat16 is returned as raw bits in uint16 (see dtypes.py). Memory stays bounded by one storage, however
large the file is: see TorchZip.record.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from grpo_cli.convert.dtypes import Array
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.torch_index import TensorInfo, read_index
from grpo_cli.convert.torch_zip import CHUNK, DOWNLOAD_AGAIN, TorchZip
from grpo_cli.models.pickle_reader import RefusedPickle, shown


class TorchFile:
    """One .pt file, a context manager. `tensors` are the entries of its state dict in order.

    Raises ConversionError for anything but an intact state dict.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = TorchZip(path)
        try:
            self._swapped = self._is_big_endian()
            self.tensors: dict[str, TensorInfo] = self._read_index()
            for name, info in self.tensors.items():
                self._check_record(name, info)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._zip.close()

    def read(self, name: str) -> Array:
        """A copy of a tensor, contiguous and in its shape.

        Its mapped pages are released while it is copied, so that it is not in memory twice. Raises KeyError
        for an unknown name, ConversionError if the checksum does not match.
        """
        view = self.view(name)
        if view.nbytes <= CHUNK or not view.ndim:
            return np.array(view, order="C")
        copy = np.empty(view.shape, view.dtype)
        rows = max(1, CHUNK * len(view) // view.nbytes)
        for start in range(0, len(view), rows):
            copy[start : start + rows] = view[start : start + rows]
            self._zip.release_pages()
        return copy

    def view(self, name: str) -> Array:
        """A read-only view of a tensor in the mapped file, with the strides it was saved with.

        Use it before the next call, which releases its pages (they are read again when needed). Raises as
        `read` does.
        """
        info = self.tensors[name]
        if not info.count:
            return np.empty(info.shape, info.dtype.bits)
        # frombuffer keeps the file mapped while the view lives; ndarray alone does not.
        record = np.frombuffer(self._zip.record(f"data/{info.storage.key}"), "u1")
        bits = info.dtype.bits.newbyteorder(">" if self._swapped else "<")
        view: Array = np.ndarray(
            info.shape,
            bits,
            record,
            info.offset * info.dtype.size,
            tuple(step * info.dtype.size for step in info.stride),
        )
        return view.astype(info.dtype.bits) if self._swapped else view

    def _is_big_endian(self) -> bool:
        """The byte order in the record `byteorder`; files of torch before 2.1 have none and are
        little-endian.
        """
        if "byteorder" not in self._zip:
            return False
        order = bytes(self._zip.record("byteorder")[:16])
        if order not in (b"little", b"big"):
            raise ConversionError(f"{self.path} has the unknown byte order {shown(order.decode('latin1'))}")
        return order == b"big"

    def _read_index(self) -> dict[str, TensorInfo]:
        try:
            return read_index(bytes(self._zip.record("data.pkl")))
        except RefusedPickle as error:
            raise ConversionError(
                f"{self.path} was refused, and nothing in it was run: {error}",
                "convert a model's state dict, which nanochat writes as `model_<step>.pt`",
            ) from error

    def _check_record(self, name: str, info: TensorInfo) -> None:
        record = f"data/{info.storage.key}"
        if not info.count:
            return  # its storage may have no record
        if record not in self._zip:
            raise ConversionError(
                f"{self.path} lacks the record {shown(record)} of the tensor {name}", DOWNLOAD_AGAIN
            )
        end, size = info.end * info.dtype.size, self._zip.size(record)
        if end > size:
            raise self._damaged(
                f"the tensor {name} goes past the end of its record {shown(record)} (byte {end} of {size})"
            )
        whole = info.storage.count * info.dtype.size
        if whole != size:
            raise self._damaged(f"its record {shown(record)} has {size} bytes, not {whole}")

    def _damaged(self, how: str) -> ConversionError:
        return ConversionError(f"{self.path} is damaged: {how}", DOWNLOAD_AGAIN)
