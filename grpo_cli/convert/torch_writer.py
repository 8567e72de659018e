"""Write a PyTorch checkpoint without torch, one tensor at a time, so that memory holds one tensor.

    write_torch_file(Path("model_000650.pt"), [OutgoingTensor("w", DTYPES["float32"], (2, 3), read=…)])

The file is a zip of uncompressed records below a folder named after it: `data.pkl`, the pickled state
dict without the numbers; `byteorder`; the numbers of each tensor in `data/0`, `data/1`, …; `version`.
Every record begins at a multiple of 64 bytes, so that torch can map it into memory. The same tensors
give the same bytes. Source: torch/serialization.py and caffe2/serialize/inline_container.cc of PyTorch 2.
"""

import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.outgoing import OutgoingTensor, check_distinct
from grpo_cli.files import sync

ALIGNMENT = 64  # of a record's first byte
LOCAL_HEADER = 30  # bytes in front of the name
ZIP64_FIELD = 20  # bytes that zipfile adds to the local header of a record it calls large
PADDING = struct.Struct("<2sH")  # torch's extra field: name and number of following bytes
VERSION = b"3\n"  # torch's, of the record layout

# Pickle operations (protocol 2; see pickletools). No memo is used: a tensor takes about 250 bytes.
PROTOCOL, STOP, MARK, TUPLE, SET_ITEMS, CALL, PERSISTENT = b"\x80\x02", b".", b"(", b"t", b"u", b"R", b"Q"
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"  # an empty one
REBUILD_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
LARGEST_INT = (1 << 31) - 1  # of the operation for a four-byte int


def write_torch_file(path: Path, tensors: Sequence[OutgoingTensor]) -> None:
    """Write a state dict to `path`, overwriting it. File and folder are fsynced.

    A failure leaves a partial file. Raises ConversionError if it cannot be written (a full disk), ValueError
    for duplicate names and for numbers that do not match their OutgoingTensor.
    """
    check_distinct(tensors)
    # torch itself uses this folder name if its own file name is unsuitable.
    root = path.stem if path.stem.isascii() else "archive"
    try:
        with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            _write_records(archive, file, root, tensors)
        sync(path)
        sync(path.parent)
    except OSError as error:
        raise ConversionError(
            f"cannot write {path}: {error.strerror or error}", "choose another folder with `--output`"
        ) from error


def _write_records(
    archive: zipfile.ZipFile, file: IO[bytes], root: str, tensors: Sequence[OutgoingTensor]
) -> None:
    def add(name: str, size: int, write: Callable[[IO[bytes]], object]) -> None:
        _write_record(archive, file.tell(), f"{root}/{name}", size, write)

    def add_bytes(name: str, content: bytes) -> None:
        add(name, len(content), lambda record: record.write(content))

    add_bytes("data.pkl", pickled(tensors))
    add_bytes("byteorder", b"little")
    for key, tensor in enumerate(tensors):
        add(f"data/{key}", tensor.size, tensor.write)
    add_bytes("version", VERSION)


def _write_record(
    archive: zipfile.ZipFile, at: int, name: str, size: int, write: Callable[[IO[bytes]], object]
) -> None:
    """Write one record at offset `at`, its local header padded so that its first byte is aligned."""
    is_large = size > zipfile.ZIP64_LIMIT
    entry = zipfile.ZipInfo(name)
    start = at + LOCAL_HEADER + len(name) + PADDING.size + ZIP64_FIELD * is_large
    padding = -start % ALIGNMENT
    entry.extra = PADDING.pack(b"FB", padding) + b"Z" * padding
    with archive.open(entry, "w", force_zip64=is_large) as record:
        write(record)
    entry.extra = b""  # no padding in the central directory


def pickled(tensors: Sequence[OutgoingTensor]) -> bytes:
    """data.pkl: an OrderedDict of name → tensor, each with its own storage `data/<number>`."""
    items = b"".join(_text(tensor.name) + _tensor(tensor, str(key)) for key, tensor in enumerate(tensors))
    return PROTOCOL + ORDERED_DICT + MARK + items + SET_ITEMS + STOP


def _tensor(tensor: OutgoingTensor, key: str) -> bytes:
    """_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, backward_hooks)."""
    module, _, name = tensor.written.storage.rpartition(".")
    storage_class = f"c{module}\n{name}\n".encode()
    place = _tuple(_text("storage"), storage_class, _text(key), _text("cpu"), _int(tensor.count))
    return (
        REBUILD_TENSOR
        + _tuple(
            place + PERSISTENT,
            _int(0),
            _tuple(*map(_int, tensor.shape)),
            _tuple(*map(_int, _contiguous(tensor.shape))),
            b"\x89",  # False
            ORDERED_DICT,
        )
        + CALL
    )


def _contiguous(shape: tuple[int, ...]) -> list[int]:
    """Strides in elements, as in torch: an axis of size 0 counts as one of size 1."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * max(shape[axis], 1)
    return strides


def _tuple(*items: bytes) -> bytes:
    return MARK + b"".join(items) + TUPLE


def _text(text: str) -> bytes:
    content = text.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def _int(number: int) -> bytes:
    if number <= LARGEST_INT:
        return b"J" + struct.pack("<i", number)
    length = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + number.to_bytes(length, "little", signed=True)
