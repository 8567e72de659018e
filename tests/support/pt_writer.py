"""Write .pt files by hand, good ones and bad ones: the pickle operation by operation, the zip by zipfile."""

import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STOP = b"."


@dataclass(frozen=True)
class Raw:
    """Pickle operations to be written as they are."""

    code: bytes


def name(dotted: str) -> Raw:
    """GLOBAL: the object called so."""
    module, _, attribute = dotted.rpartition(".")
    return Raw(f"c{module}\n{attribute}\n".encode())


def call(dotted: str, *arguments: Any) -> Raw:
    """REDUCE: what the named object returns."""
    return Raw(name(dotted).code + code(arguments) + b"R")


def code(value: Any) -> bytes:
    """Protocol 2 operations that push a value."""
    if isinstance(value, Raw):
        return value.code
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, int):
        length = value.bit_length() // 8 + 1
        return b"\x8b" + struct.pack("<i", length) + value.to_bytes(length, "little", signed=True)
    if isinstance(value, tuple):
        return b"(" + b"".join(map(code, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(code, value)) + b"e"
    assert isinstance(value, dict), value
    return b"}(" + b"".join(code(key) + code(item) for key, item in value.items()) + b"u"


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + code(value) + STOP


def storage(kind: str, key: str, count: int, location: str = "cpu") -> Raw:
    return Raw(code(("storage", name(f"torch.{kind}Storage"), key, location, count)) + b"Q")


def tensor(held: Raw, shape: tuple[int, ...], stride: tuple[int, ...], offset: Any = 0, *more: Any) -> Raw:
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", held, offset, shape, stride, False, hooks, *more)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor without gaps, in elements."""
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def write_records(path: Path, records: Mapping[str, Any], root: str = "archive") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for record, content in records.items():
            archive.writestr(f"{root}/{record}", content)
    return path


def write_pt(path: Path, index: Any, storages: Iterable[Any] = (), byteorder: str = "little") -> Path:
    """A file whose data.pkl is a value, or bytes as they are, with the records data/0, data/1, …"""
    records: dict[str, Any] = {"data.pkl": index if isinstance(index, bytes) else pickled(index)}
    records |= {"byteorder": byteorder.encode()} if byteorder else {}
    records |= {f"data/{key}": content for key, content in enumerate(storages)}
    return write_records(path, records)


def write_arrays(path: Path, arrays: Mapping[str, tuple[str, np.ndarray]], byteorder: str = "little") -> Path:
    """A state dict of contiguous arrays, each given with the name of its torch storage ("Float")."""
    index = {
        key: tensor(storage(kind, str(number), array.size), array.shape, contiguous(array.shape))
        for number, (key, (kind, array)) in enumerate(arrays.items())
    }
    return write_pt(
        path, index, (array.reshape(-1).view("u1").data for _, array in arrays.values()), byteorder
    )
