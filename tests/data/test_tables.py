"""Typed columns of Arrow and CSV as Python values: no digit changes."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy
import pyarrow
import pytest
from pyarrow import parquet

from tests.support.datasets import Rows, loaded, put, typed


def test_typed_columns_are_python_values(tmp_path: Path) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901)
    values: dict[str, tuple[Any, Any, Any]] = {  # name → what is stored, its type, what is read
        "at": (moment, pyarrow.timestamp("us"), moment),
        "ns": (1_767_323_045_678_901_999, pyarrow.timestamp("ns"), moment),
        "utc": (
            moment.replace(tzinfo=UTC),
            pyarrow.timestamp("ms", "UTC"),
            moment.replace(microsecond=678000, tzinfo=UTC),
        ),
        "day": (date(2026, 1, 2), pyarrow.date32(), date(2026, 1, 2)),
        "clock": (time(3, 4), pyarrow.time64("ns"), time(3, 4)),
        "took": (timedelta(seconds=1), pyarrow.duration("ns"), timedelta(seconds=1)),
        "price": (Decimal("1.50"), pyarrow.decimal128(10, 2), Decimal("1.50")),
        "image": (b"\x89PNG\x00", pyarrow.binary(), b"\x89PNG\x00"),
        "narrow": (0.1, pyarrow.float32(), 0.1),
        "half": (numpy.float16(0.1), pyarrow.float16(), 0.1),
        "deep": (
            [{"x": 0.1, "y": None}],
            pyarrow.list_(pyarrow.struct({"x": pyarrow.float32(), "y": pyarrow.string()})),
            [{"x": 0.1, "y": None}],
        ),
        "big": (2**63 - 1, pyarrow.int64(), 2**63 - 1),
        "whole": (12.0, pyarrow.float64(), 12.0),
        "yes": (True, pyarrow.bool_(), True),
    }
    columns = {name: pyarrow.array([stored, None], kind) for name, (stored, kind, _) in values.items()}
    stored = pyarrow.table({"question": ["a", "b"], "answer": ["1", "2"], **columns})
    parquet.write_table(stored, tmp_path / "train.parquet")
    datasets.Dataset(stored).save_to_disk(tmp_path / "saved")
    wanted: Rows = [
        {"question": "a", "answer": "1", **{name: read for name, (_, _, read) in values.items()}},
        {"question": "b", "answer": "2", **dict.fromkeys(values)},
    ]
    assert typed(loaded(tmp_path / "train.parquet", "train")) == typed(wanted)
    assert typed(loaded(tmp_path / "saved", "train")) == typed(wanted)


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["1", "-2", ""], [1, -2, None]),
        (["1.5", "0.1"], [1.5, 0.1]),
        (["1.50", "2"], ["1.50", "2"]),
        (["05", "5"], ["05", "5"]),
        (["1", "x"], ["1", "x"]),
        (["1e3", "1"], ["1e3", "1"]),
        (["true", "False"], ["true", "False"]),
        (["nan", "None"], ["nan", "None"]),
        (["123456789012345678901", "1"], ["123456789012345678901", "1"]),
    ],
)
def test_a_csv_column_is_numbers_only_where_nothing_is_lost(
    tmp_path: Path, cells: list[str], read: list[Any]
) -> None:
    rows = "".join(f"a,1,{cell}\n" for cell in cells)
    put(tmp_path / "train.csv", b"\xef\xbb\xbfquestion,answer,x\r\n" + rows.encode())
    assert [(type(row["x"]), row["x"]) for row in loaded(tmp_path, "train")] == [(type(x), x) for x in read]
