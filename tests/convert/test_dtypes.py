"""Casts between floating formats, against hand-computed bits and against MLX."""

import mlx.core as mx
import numpy as np
import pytest

from grpo_cli.convert.dtypes import DTYPES, cast

BF16, F16, F32, F64 = (DTYPES[name] for name in ("bfloat16", "float16", "float32", "float64"))


@pytest.mark.parametrize(
    "float32, bfloat16",
    [
        (0x3F800000, 0x3F80),  # 1
        (0x3F808000, 0x3F80),  # a tie, down to even
        (0x3F818000, 0x3F82),  # a tie, up to even
        (0x3F808001, 0x3F81),  # just above a tie
        (0x3F80FFFF, 0x3F81),
        (0x7F7FFFFF, 0x7F80),  # the largest float32 becomes infinite
        (0xFF800000, 0xFF80),  # -infinity
        (0x80000000, 0x8000),  # -0
        (0x00000001, 0x0000),  # the smallest subnormal
        (0x7F800001, 0x7FC0),  # a NaN whose own bits are all in the lower half
        (0xFFFFFFFF, 0xFFFF),
    ],
)
def test_float32_to_bfloat16(float32: int, bfloat16: int) -> None:
    values = np.array([float32], "<u4").view("<f4")
    assert hex(cast(values, F32, BF16)[0]) == hex(bfloat16)


def test_casts_agree_with_mlx() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 20_000, dtype=np.uint32)
    values = bits.view("<f4")
    values = values[np.isfinite(values)]
    theirs = np.array(mx.array(values).astype(mx.bfloat16).view(mx.uint16))
    np.testing.assert_array_equal(cast(values, F32, BF16), theirs, strict=True)
    half = np.array(mx.array(values).astype(mx.float16))
    np.testing.assert_array_equal(cast(values, F32, F16), half, strict=True)


def test_bfloat16_to_float32_is_exact() -> None:
    every = np.arange(1 << 16, dtype="<u2")
    back = cast(every, BF16, F32)
    assert back[0x3FC0] == 1.5
    assert back[0xC000] == -2.0
    assert np.isnan(back).sum() == 2 * 127
    finite = np.isfinite(back)
    np.testing.assert_array_equal(cast(back, F32, BF16)[finite], every[finite])


def test_other_casts() -> None:
    assert cast(np.array([0x3FC0], "<u2"), BF16, F16).tolist() == [1.5]
    assert cast(np.array([1.5, 1e300]), F64, BF16).tolist() == [0x3FC0, 0x7F80]
    assert cast(np.array([7], "i1"), DTYPES["int8"], DTYPES["int8"]).tolist() == [7]
    with pytest.raises(ValueError, match="no cast from int8 to float32"):
        cast(np.array([7], "i1"), DTYPES["int8"], F32)
