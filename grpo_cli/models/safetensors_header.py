"""Read the headers of safetensors files in pure Python, without the numbers.

    read_header(Path("model.safetensors"))["lm_head.weight"].shape     # (65536, 1280)

The format: 8 bytes with the header's length (little endian), that many bytes of JSON, then the numbers.
Offsets count from the end of the header (https://github.com/huggingface/safetensors, README). A header's
claims are compared with the file's size before use.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from grpo_cli.untrusted_json import DamagedFile, check_regular, parse_object, shown

LARGEST = 100_000_000  # bytes of JSON, the same limit as in the format's reference reader
BITS = {"F4": 4, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "BOOL": 8, "I8": 8, "U8": 8, "F16": 16}
BITS |= {"BF16": 16, "I16": 16, "U16": 16, "F32": 32, "I32": 32, "U32": 32, "F64": 64, "I64": 64, "U64": 64}
BITS |= {"C64": 64}
POINTER = b"version https://git-lfs"  # in place of a file that was not fetched


@dataclass(frozen=True)
class Tensor:
    """A tensor as its file's header describes it."""

    dtype: str  # safetensors' name: F32, BF16, U32
    shape: tuple[int, ...]
    begin: int  # in bytes from the end of the header
    end: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """Name → tensor of a safetensors file, in the file's order.

    Raises DamagedFile if the file is cut off, too long or in another format; OSError if it cannot be read.
    """
    check_regular(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(8)
        if is_pointer(begin + file.read(len(POINTER))):
            raise DamagedFile("is a Git LFS pointer: the weights themselves were never fetched")
        length = int.from_bytes(begin, "little")
        if size < 8 or length > LARGEST or not 2 <= length <= size - 8:
            raise DamagedFile(_no_header(size, length))
        file.seek(8)
        text = file.read(length)
    tensors = _tensors(text)
    _check_places(tensors)
    expected = 8 + length + max((tensor.end for tensor in tensors.values()), default=0)
    if size != expected:
        what = "is cut off" if size < expected else "has bytes that belong to no tensor"
        raise DamagedFile(f"{what}: {size:,} of {expected:,} bytes")
    return tensors


def is_pointer(begin: bytes) -> bool:
    """True if this is the beginning of a Git LFS pointer."""
    return begin.startswith(POINTER)


def _no_header(size: int, length: int) -> str:
    if size < 8:
        return f"has {size} bytes, too few for a safetensors header"
    if 2 <= length <= LARGEST:
        return f"is cut off: its header alone has {length:,} bytes, the file {size:,}"
    return f"is not a safetensors file: its first 8 bytes give a header of {length:,} bytes"


def _tensors(text: bytes) -> dict[str, Tensor]:
    try:
        header = parse_object(text)
    except DamagedFile as error:
        raise DamagedFile(f"has a header that {error}") from error
    notes = header.pop("__metadata__", None) or {}  # mlx writes null for none
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise DamagedFile("has a header whose `__metadata__` is not a table of texts")
    return {name: _tensor(name, entry) for name, entry in header.items()}


def _check_places(tensors: dict[str, Tensor]) -> None:
    """Raise DamagedFile for gaps and overlaps: every byte must belong to one tensor."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end:
            what = "shares bytes with another tensor" if tensor.begin < end else "comes after a gap"
            raise DamagedFile(f"has a header in which {shown(name)} {what}")
        end = tensor.end


def _tensor(name: str, entry: Any) -> Tensor:
    """One entry of the header. Raises DamagedFile if it is not a tensor."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        bits = BITS[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"has a header in which {shown(name)} is not a tensor") from error
    numbers = (*shape, begin, end)
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise DamagedFile(f"has a header with invalid sizes of {shown(name)}")
    if (prod(shape) * bits + 7) // 8 != end - begin:
        raise DamagedFile(
            f"has a header in which {shown(name)} takes {end - begin} bytes, which does not match its shape"
        )
    return Tensor(dtype, shape, begin, end)
