"""The number formats of checkpoints, and casts between the floating ones.

numpy has no bfloat16: such numbers are raw bits in uint16 arrays, and the DType next to the
array gives their format. All arrays are little-endian.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class DType:
    """A number format. `bits`: numpy type that holds it; `storage`: torch's class for its storages."""

    name: str
    bits: np.dtype
    safetensors: str
    storage: str

    @property
    def size(self) -> int:
        """Bytes of one number."""
        return self.bits.itemsize

    @property
    def is_floating(self) -> bool:
        return self.name in ("bfloat16", "float16", "float32", "float64")


DTYPES = {
    name: DType(name, np.dtype(bits), safetensors, f"torch.{storage}Storage")
    for name, bits, safetensors, storage in [
        ("bfloat16", "<u2", "BF16", "BFloat16"),
        ("float16", "<f2", "F16", "Half"),
        ("float32", "<f4", "F32", "Float"),
        ("float64", "<f8", "F64", "Double"),
        ("int8", "i1", "I8", "Char"),
        ("int16", "<i2", "I16", "Short"),
        ("int32", "<i4", "I32", "Int"),
        ("int64", "<i8", "I64", "Long"),
        ("uint8", "u1", "U8", "Byte"),
        ("bool", "?", "BOOL", "Bool"),
    ]
}


def cast(values: Array, source: DType, target: DType) -> Array:
    """Cast numbers to another floating format, rounded to nearest (ties to even).

    Values too large for float16 become infinite. Arrays are returned unchanged if the formats are equal.
    Raises ValueError for a cast between other formats.
    """
    if source == target:
        return values
    if not (source.is_floating and target.is_floating):
        raise ValueError(f"no cast from {source.name} to {target.name}")
    wide = _from_bfloat16(values) if source.name == "bfloat16" else values
    if target.name == "bfloat16":
        return _to_bfloat16(wide)
    with np.errstate(over="ignore"):  # numpy warns of infinities
        return wide.astype(target.bits)


def _from_bfloat16(bits: Array) -> Array:
    """float32 with the same value: bfloat16 is its upper half."""
    return (bits.astype("<u4") << np.uint32(16)).view("<f4")


def _to_bfloat16(values: Array) -> Array:
    """The raw bits of the nearest bfloat16; float64 is first cast to float32."""
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(values, "<f4").view("<u4")
    upper = bits >> np.uint32(16)
    # Half of the last kept place, minus one if that place is even, so that ties go to even.
    rounded = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    # Rounding could turn a NaN into infinity: keep its upper half and make it quiet.
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(is_nan, upper | np.uint32(0x40), rounded).astype("<u2")
