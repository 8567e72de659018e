"""The number formats of checkpoints, and casts between the floating ones.

numpy has no bfloat16: such numbers travel as their raw bits in uint16 arrays, and the DType beside the
array says what they are. All arrays are little-endian.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class DType:
    """One number format. `bits`: the numpy type that holds it; `storage`: torch's class for its storages."""

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
    """Numbers of one floating format in another, rounded to the nearest (ties to even).

    What is too large for float16 becomes infinite. Numbers that are not floating, or already of the
    target's format, come back as they are only if the formats are equal: ValueError otherwise.
    """
    if source == target:
        return values
    if not (source.is_floating and target.is_floating):
        raise ValueError(f"no cast from {source.name} to {target.name}")
    wide = _from_bfloat16(values) if source.name == "bfloat16" else values
    if target.name == "bfloat16":
        return _to_bfloat16(wide)
    with np.errstate(over="ignore"):  # numpy warns of the infinities
        return wide.astype(target.bits)


def _from_bfloat16(bits: Array) -> Array:
    """float32 with the same value: bfloat16 is its upper half."""
    return (bits.astype("<u4") << np.uint32(16)).view("<f4")


def _to_bfloat16(values: Array) -> Array:
    """The raw bits of the nearest bfloat16; float64 goes by way of float32."""
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(values, "<f4").view("<u4")
    upper = bits >> np.uint32(16)
    # Half of the last kept place, less one where that place is even, so that ties go to even.
    rounded = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    # Rounding could carry a NaN over to infinity: keep its upper half, and make it quiet.
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(is_nan, upper | np.uint32(0x40), rounded).astype("<u2")
