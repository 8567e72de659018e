"""Dataset files that are broken, and rows that an error names by file and place."""

import gzip
from pathlib import Path

import pytest

from grpo_cli.errors import DataError
from tests.support.datasets import TRAIN, lines, loaded, put, table


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", b"question,answer\n1,2\n1,2,3\n", "Broken CSV file: {}: Error tokenizing data"),
        ("train.csv", b"question,question\n1,2\n", "Broken CSV file: {}: "),
        ("train.csv", b"", "Broken CSV file: {}: No columns to parse from file"),
        ("train.tsv", b"question\tanswer\n\xff\t1\n", "Broken CSV file: {}: 'utf-8' codec can't decode byte"),
        (
            "train.jsonl.gz",
            gzip.compress(lines(TRAIN), mtime=0)[:-9],
            "Failed to read {}: Truncated compressed stream",
        ),
        ("train.csv.gz", b"question", "Failed to read {}: "),
        ("train.jsonl.zst", b"question", "Failed to read {}: "),
        ("train.arrow", b"question", "Broken Arrow file: {}: "),
        ("train.jsonl.gz", gzip.compress(b'{"question": \n', mtime=0), "Broken JSON: {}, line 1, column 13"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        loaded(path, "train")
    assert caught.value.message.startswith(message.format(path))


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("test.jsonl", b'{"question": "a", "answer": "1"}\n\n{"question": "b", "answer": ""}\n', "line 3"),
        ("test.json", b'[{"question": "a", "answer": "1"}, {"question": "b", "answer": ""}]', "item 2"),
        ("test.csv", b"question,answer\na,1\nb,\n", "row 2"),
        ("test.parquet", table([{"question": "a", "answer": "1"}, {"question": "b", "answer": ""}]), "row 2"),
    ],
)
def test_an_error_names_split_file_and_row(tmp_path: Path, name: str, content: bytes, place: str) -> None:
    put(tmp_path / "train.jsonl", lines(TRAIN))
    put(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, "test")
    where = f"`answer` in {place} of {tmp_path}/{name}, split `test`, is "
    assert caught.value.message.startswith(f"No answer: {where}")
