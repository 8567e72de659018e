"""Convert typed columns of Arrow and CSV to Python values without changing a digit.

A float32 0.1 becomes 0.1, not 0.10000000149011612; a time in nanoseconds becomes a `datetime`, truncated to
microseconds, not a pandas class; a CSV column is numeric if every cell is written as Python writes it.
"""

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow

WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)
DECIMAL = re.compile(r"-?[0-9]+\.[0-9]+", re.ASCII)


def values_of(table: "pyarrow.Table") -> list[dict[str, Any]]:
    """The rows of a table as plain Python values."""
    columns = [
        [plain(cell, column.type) for cell in column.to_pylist()]
        if needs_care(column.type)
        else column.to_pylist()
        for column in table.columns
    ]
    return [dict(zip(table.column_names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def needs_care(kind: Any) -> bool:
    """True if the type contains, at any depth, narrow floats or nanoseconds."""
    if kind.num_fields:
        return any(needs_care(kind.field(place).type) for place in range(kind.num_fields))
    return str(kind) in ("float", "halffloat") or "[ns" in str(kind)


def plain(value: Any, kind: Any) -> Any:
    """A value from Arrow's `to_pylist`, with the shortest decimal and Python's own time classes."""
    if isinstance(value, float) and str(kind) in ("float", "halffloat"):
        return float(str(np.float32(value) if str(kind) == "float" else np.float16(value)))
    if isinstance(value, dict):
        return {name: plain(item, kind.field(name).type) for name, item in value.items()}
    if isinstance(value, list) and kind.num_fields == 1:  # a map has pairs; their types are ignored
        return [plain(item, kind.field(0).type) for item in value]
    for convert in ("to_pydatetime", "to_pytimedelta"):  # pandas' Timestamp and Timedelta
        if hasattr(value, convert):
            return getattr(value.floor("us"), convert)()
    return value


def plain_numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of texts, with purely numeric columns converted to numbers.

    `05`, `1.50` and `1e3` keep their whole column as text: a reward sees exactly the values in the file.
    """
    for name in rows[0] if rows else ():
        cells = [row[name] for row in rows if row[name] is not None]
        read = number_kind(cells)
        for row in rows if read else ():
            row[name] = None if row[name] is None else read(row[name])
    return rows


def number_kind(cells: list[str]) -> Any:
    """int or float if all cells are written that way, else None."""
    if cells and all(WHOLE.fullmatch(cell) for cell in cells):
        return int
    if cells and all(is_number(cell) for cell in cells) and any(DECIMAL.fullmatch(cell) for cell in cells):
        return float
    return None


def is_number(cell: str) -> bool:
    """True if the cell is an integer, or a decimal that Python would write the same way."""
    return bool(DECIMAL.fullmatch(cell)) and repr(float(cell)) == cell
