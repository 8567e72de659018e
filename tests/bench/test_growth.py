"""The arithmetic of the benchmark of growth; no number of a measurement is asserted."""

import io
from typing import Any

import pytest
from rich.console import Console

from tests.bench.growth_table import exponents, slope, table, work

MODEL = {
    "hidden_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8,
    "num_hidden_layers": 3, "vocab_size": 10,
}  # fmt: skip


def test_work_by_hand() -> None:
    """A layer has 2·4·4·1.5 + 3·4·8 = 144 multiplications a token; 2·4 a position that it reads."""
    point = {"prompts": 5, "generations": 2, "prompt": 6, "completion": 4}
    positions = 6 * 6 / 2 + 2 * 4 * (6 + 4 / 2)
    layers = 3 * ((6 + 2 * 4) * 144 + 8 * positions)
    assert work(point, MODEL) == 5 * (layers + 2 * 4 * 4 * 10)


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0, 6.0, 12.0], 1.0), ([3.0, 3.0, 3.0], 0.0), ([1.0, 4.0, 16.0], 2.0)]
)
def test_an_exponent_is_the_slope_of_the_logarithms(values: list[float], expected: float) -> None:
    assert slope([8, 16, 32], values) == pytest.approx(expected)


def test_one_size_has_no_exponent() -> None:
    assert slope([8], [3.0]) is None


def points(sizes: tuple[int, ...], **keys: list[float]) -> list[dict[str, Any]]:
    rows = zip(*keys.values(), strict=True)
    return [
        {"size": size, **dict(zip(keys, row, strict=True))} for size, row in zip(sizes, rows, strict=True)
    ]


def test_a_table_relates_the_seconds_to_the_work() -> None:
    measured = points(
        (8, 16), work=[100, 200], rollout_seconds=[1.0, 1.5], update_cpu_seconds=[1.0, 4.0],
        rollout_peak_gb=[0.5, 0.5], update_peak_gb=[1.0, 2.0],
    )  # fmt: skip
    lines = printed("G", measured)
    assert "│ 16 │ 2.00 │ 1.500 │ 0.75 │ 4.000 │ 2.00 │ 0.500 │ 2.000 │" in lines
    assert "│ exponent │ │ 0.58 │ │ 2.00 │ │ 0.00 │ 1.00 │" in lines


def test_the_step_that_warms_up_is_left_out() -> None:
    measured = points(
        (1, 20, 2000), work=[1, 1, 1], rollout_seconds=[9.0, 0.5, 0.5], update_seconds=[9.0, 0.5, 5.0],
        peak_memory_gb=[0.1, 0.1, 0.1], resident_gb=[0.1, 0.2, 0.2],
    )  # fmt: skip
    found = exponents("steps", measured)
    assert (found["rollout_seconds"], found["update_seconds"]) == pytest.approx((0.0, 0.5))
    assert found["rollout_seconds_over_work"] is None  # all steps have the same work
    assert "│ 2,000 │ 1.00 │ 0.500 │ 1.00 │ 5.000 │ 10.00 │ 0.100 │ 0.200 │" in printed("steps", measured)


def printed(axis: str, measured: list[dict[str, Any]]) -> list[str]:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table(axis, {"points": measured, "exponents": exponents(axis, measured)}))
    return [" ".join(line.split()) for line in console.export_text().splitlines()]
