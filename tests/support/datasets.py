"""Datasets as files of every format, and the values that are read from them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from grpo_cli.config.schema import Config
from grpo_cli.data.load import load_examples

Rows = list[dict[str, Any]]
TRAIN: Rows = [
    {"question": "1 + 1?", "answer": "2", "level": 3, "note": "2024-01-05"},
    {"question": 'a "b", c\n\td?', "answer": "05", "level": 4, "note": "é 🙂"},
    {"question": "NA", "answer": "1,000", "level": 5, "note": None},
]
TEST: Rows = [{"question": "9 + 9?", "answer": "$18", "level": 1, "note": "None"}]


def lines(rows: Rows) -> bytes:
    """JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def separated(rows: Rows, separator: str) -> bytes:
    """CSV, with every text in quotes."""
    cells = [list(rows[0])] + [[row[name] for name in row] for row in rows]

    def written(cell: Any) -> str:
        return (
            ""
            if cell is None
            else '"' + cell.replace('"', '""') + '"'
            if isinstance(cell, str)
            else str(cell)
        )

    return "".join(separator.join(map(written, row)) + "\n" for row in cells).encode()


def compressed(content: bytes, codec: str) -> bytes:
    """The bytes compressed."""
    if codec == "gzip":  # in two members, as `cat a.gz b.gz` makes
        half = len(content) // 2
        return gzip.compress(content[:half], mtime=0) + gzip.compress(content[half:], mtime=0)
    return pyarrow.compress(content, codec=codec, asbytes=True) if codec == "bz2" else zstd(content)


def zstd(content: bytes) -> bytes:
    """A zstd frame that, as `zstd` writes it from a pipe, does not say its size."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def table(rows: Rows) -> bytes:
    """Parquet."""
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    ".jsonl": lines,
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".csv": lambda rows: separated(rows, ","),
    ".tsv": lambda rows: separated(rows, "\t"),
    ".parquet": table,
    ".jsonl.gz": lambda rows: compressed(lines(rows), "gzip"),
    ".json.zst": lambda rows: zstd(json.dumps(rows).encode()),
    ".csv.gz": lambda rows: compressed(separated(rows, ","), "gzip"),
    ".tsv.zst": lambda rows: zstd(separated(rows, "\t")),
}


def put(path: Path, content: bytes) -> None:
    """Write a file, with the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def loaded(path: Path, split: str, **keys: Any) -> Rows:
    """The values of a split's rows, as rewards are given them."""
    config = Config(dataset=str(path), **keys)
    return [example.columns for example in load_examples(config, split)]


def typed(rows: Rows) -> list[list[tuple[str, type, Any]]]:
    """Every value with its type: 1, 1.0 and True are equal, but not the same."""
    return [[(name, type(value), value) for name, value in row.items()] for row in rows]


ASKED = {"role": "user", "content": "9 + 9?"}


SAID = {"role": "assistant", "content": "#### 18"}
