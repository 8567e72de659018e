"""Read one dataset file row by row, each row with its location.

    for row in read_file(Path("data/train.jsonl.gz")): row.values, row.place

| .json .jsonl   | with the standard library: `datasets` guesses a type for a whole column there (a text
|                  "2024-01-05" becomes a date, 12 becomes 12.0)
| .csv .tsv      | through `datasets`, every cell as its text; a column of plain numbers becomes numbers
| .parquet       | with pyarrow, as its types say
| .arrow         | through `datasets`

Any of the texts may be compressed (.gz .zst .bz2 .lz4). Nothing is cached, so a changed file is read anew.
"""

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from grpo_cli.data.rows import Row
from grpo_cli.data.tables import plain_numbers, values_of
from grpo_cli.data.values import check_text
from grpo_cli.errors import DataError

Values = dict[str, Any]
Reader = Callable[[Path], Iterator[Row]]
COMPRESSED = (".gz", ".zst", ".bz2", ".lz4")
ONE_OBJECT_A_LINE = "a JSONL file has one JSON object per line; a JSON file may also hold one list of objects"
BOM = b"\xef\xbb\xbf"  # byte order mark that some editors write
PIECE = 1 << 20  # bytes


def suffix_of(path: Path) -> str:
    """The format of a file, `.jsonl` for `train.jsonl.gz`; empty if unsupported."""
    name = path.name.lower()
    plain = name.removesuffix(Path(name).suffix) if Path(name).suffix in COMPRESSED else name
    suffix = Path(plain).suffix
    return suffix if suffix in (READERS if plain == name else TEXTS) else ""


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file. Raises DataError that names the file and, for JSON, the line."""
    try:
        yield from READERS[suffix_of(path)](path)
    except OSError as error:
        raise DataError(
            f"Failed to read {path}: {error.strerror or error}", "check the file and its permissions"
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's decompressed bytes."""
    if path.suffix.lower() not in COMPRESSED:
        with path.open("rb") as file:
            yield file
        return
    import pyarrow  # installed with `datasets`; reads all of these without further packages

    with pyarrow.input_stream(str(path), compression="detect") as stream:
        yield io.BufferedReader(stream, PIECE)


# --- JSON ---------------------------------------------------------------------------------------------


def read_jsonl(path: Path) -> Iterator[Row]:
    """One JSON object per line; blank lines are skipped."""
    with opened(path) as file:  # bytes: lines end only at \n, never at a U+2028 in a text
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield as_row(parse(line.rstrip(), path, number), "line", number, path, line)


def read_json(path: Path) -> Iterator[Row]:
    """A list of objects, or one object per line."""
    with opened(path) as file:
        start = file.read(64).removeprefix(BOM).lstrip()
    if not start.startswith(b"["):
        yield from read_jsonl(path)
        return
    with opened(path) as file:
        content = file.read()
    for number, item in enumerate(parse(content, path, 1), start=1):
        yield as_row(item, "item", number, path, content)


def as_row(value: Any, unit: str, number: int, path: Path, source: bytes) -> Row:
    """The value as a row, if it is an object whose texts can be encoded."""
    if not isinstance(value, dict):
        shown = json.dumps(value)[:80]
        raise DataError(f"Not an object: {unit} {number} of {path} is {shown}", ONE_OBJECT_A_LINE)
    row = Row(value, unit, number, str(path))
    if b"\\ud" in source or b"\\uD" in source:  # only such an escape can produce a lone surrogate
        for name, item in value.items():
            check_text(name, "a key", row.place)
            check_text(item, f"`{name}`", row.place)
    return row


def parse(content: bytes, path: Path, first_line: int) -> Any:
    """Parse JSON that starts on `first_line` of the file."""
    try:
        return json.loads(content.removeprefix(BOM).decode())
    except json.JSONDecodeError as error:
        place = f"{path}, line {first_line + error.lineno - 1}, column {error.colno}"
        raise DataError(f"Broken JSON: {place}: {error.msg}", ONE_OBJECT_A_LINE) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or an oversized number or nesting
        raise DataError(f"Broken JSON: {path}, line {first_line}: {error}", ONE_OBJECT_A_LINE) from error


# --- tables -------------------------------------------------------------------------------------------


def read_csv(path: Path) -> Iterator[Row]:
    return read_separated(path, ",")


def read_tsv(path: Path) -> Iterator[Row]:
    return read_separated(path, "\t")


def read_separated(path: Path, separator: str) -> Iterator[Row]:
    """The rows of a CSV or TSV file with a header. An empty cell is None."""
    import datasets  # takes seconds, and JSON does not need it

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its log repeats the exceptions
    with tempfile.TemporaryDirectory() as folder:
        # Copied under our own name: `datasets` treats a path as a pattern and writes locks next to its
        # caches.
        plain = Path(folder) / "rows.csv"
        with opened(path) as file, plain.open("wb") as copy:
            while piece := file.read(PIECE):
                copy.write(piece)

        def load(**options: Any) -> list[Values]:
            found = datasets.load_dataset(
                "csv", data_files=str(plain), split="train", streaming=True, sep=separator,
                cache_dir=folder, trust_remote_code=False, **options,
            )  # fmt: skip
            return list(found)

        try:
            [header] = load(header=None, nrows=1, na_filter=False)
            names = [str(name) for name in header.values()]
            if len({*names}) < len(names):
                raise ValueError("two columns have the same name")
            texts = datasets.Features({name: datasets.Value("string") for name in names})
            rows = load(features=texts, keep_default_na=False, na_values=[""])
        except (ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
            raise DataError(
                f"Broken CSV file: {path}: {' '.join(str(error).split())}",
                "its first line names each column once; every other row has the same number of cells, and "
                "cells with a comma, a quote or a line break are quoted",
            ) from error
    for number, values in enumerate(plain_numbers(rows), start=1):
        yield Row(values, "row", number, str(path))


def read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet  # installed with `datasets`; JSON does not need it

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for values in values_of(pyarrow.Table.from_batches([batch])):
                    number += 1
                    yield Row(values, "row", number, str(path))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"Broken Parquet file: {path}: {error}", "download or write it again") from error


def read_arrow(path: Path) -> Iterator[Row]:
    """The rows of an Arrow file written by `datasets`."""
    import datasets
    import pyarrow

    try:
        yield from rows_of(datasets.Dataset.from_file(str(path)), str(path))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"Broken Arrow file: {path}: {error}", "write it again") from error


def rows_of(dataset: Any, file: str, unit: str = "row") -> Iterator[Row]:
    """The stored rows of a `datasets.Dataset`; nothing is decoded or fetched (images, audio)."""
    number = 0
    for table in dataset.with_format("arrow").iter(batch_size=1000):
        for values in values_of(table):
            number += 1
            yield Row(values, unit, number, file)


TEXTS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
}
READERS: dict[str, Reader] = {**TEXTS, ".parquet": read_parquet, ".arrow": read_arrow}
KINDS = ", ".join(READERS)
