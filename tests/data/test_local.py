"""Files and folders: which rows belong to which split, and errors that name the file and the line."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from grpo_cli.data import local, readers
from grpo_cli.data.local import looks_like_path, nearby
from grpo_cli.errors import DataError


def write(path: Path, *rows: object) -> Path:
    """A JSONL file with these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_file(path: Path) -> list[dict[str, Any]]:
    """The values of a file's rows."""
    return [row.values for row in readers.read_file(path)]


def read_folder(folder: Path, config_name: str, split: str) -> list[dict[str, Any]]:
    """The values of a split's rows in a folder."""
    return [row.values for row in local.read_folder(folder, config_name, split)]


def read_single(path: Path, split: str, train_split: str) -> list[dict[str, Any]]:
    """The values of a split's rows where the dataset is one file."""
    return [row.values for row in local.read_single(path, split, train_split)]


def error_of(path: Path, content: bytes) -> DataError:
    """The error that reading a file with this content gives."""
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(path)
    return caught.value


def test_jsonl_keeps_every_value_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"answer": "2024-01-05", "n": 12}\r\n\n'
        + '{"answer": "a\u2028b", "n": 1.5}\n{"answer": "05"}'.encode()
    )
    assert read_file(path) == [
        {"answer": "2024-01-05", "n": 12},
        {"answer": "a\u2028b", "n": 1.5},
        {"answer": "05"},
    ]


def test_json_is_a_list_or_lines(tmp_path: Path) -> None:
    rows = [{"n": 1}, {"n": 2}]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=2))
    assert read_file(tmp_path / "list.json") == rows
    assert read_file(write(tmp_path / "lines.json", *rows)) == rows


def test_parquet(tmp_path: Path) -> None:
    rows = [{"answer": 18, "chat": [{"role": "user", "content": "x"}]}, {"answer": None, "chat": []}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet") == rows
    error = error_of(tmp_path / "b.parquet", b"not parquet at all")
    assert error.message.startswith(f"Broken Parquet file: {tmp_path}/b.parquet: ")


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"n": 1})
    assert read_file(path) == [{"n": 1}]
    assert read_file(write(path, {"n": 2})) == [{"n": 2}]


def test_broken_json_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    error = error_of(path, b'{"n": 1}\n\n{"n": \n')
    assert error.message == f"Broken JSON: {path}, line 3, column 6: Expecting value"
    assert (
        error.hint
        == "a JSONL file has one JSON object per line; a JSON file may also hold one list of objects"
    )
    assert error_of(path, b'{"n": 1}\n[1, 2]\n').message == f"Not an object: line 2 of {path} is [1, 2]"
    message = error_of(path, b'{"n": 1}\n{"n": "\xff"}\n').message
    assert message.startswith(f"Broken JSON: {path}, line 2: 'utf-8' codec can't decode byte 0xff")
    assert error_of(path, b"[" * 100_000).message.startswith(f"Broken JSON: {path}, line 1: ")
    path = tmp_path / "a.json"
    message = error_of(path, b'[\n{"n": 1}\n{"n": 2}\n]').message
    assert message == f"Broken JSON: {path}, line 3, column 1: Expecting ',' delimiter"
    assert error_of(path, b'[{"n": 1}, 5]').message == f"Not an object: item 2 of {path} is 5"


def test_a_folder_has_the_splits_that_its_files_are_named_after(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"n": 1})
    write(tmp_path / "test.json", {"n": 2})
    write(tmp_path / "training_notes.txt")
    assert read_folder(tmp_path, "", "train") == [{"n": 1}]
    assert read_folder(tmp_path, "", "test") == [{"n": 2}]
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path, "", "dev")
    assert caught.value.message == f"Split not found: `dev` in {tmp_path}"
    assert caught.value.hint == (
        "its splits: test, train; name one with train_split or eval_split; "
        "to train without evaluation, `eval_steps = 0`"
    )


def test_shards_are_joined_in_order(tmp_path: Path) -> None:
    for shard in (1, 0):
        rows = pyarrow.Table.from_pylist([{"n": shard}])
        (tmp_path / "data").mkdir(exist_ok=True)
        parquet.write_table(rows, tmp_path / f"data/train-0000{shard}-of-00002-1f2e3d.parquet")
    assert read_folder(tmp_path, "", "train") == [{"n": 0}, {"n": 1}]


def test_dataset_config_chooses_the_subfolder(tmp_path: Path) -> None:
    write(tmp_path / "main/train.jsonl", {"n": 1})
    write(tmp_path / "socratic/train.jsonl", {"n": 2})
    assert read_folder(tmp_path, "main", "train") == [{"n": 1}]
    assert read_folder(tmp_path, "socratic", "train") == [{"n": 2}]
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path, "", "train")
    assert caught.value.hint == (
        "it has no data files; its folders are main, socratic: set dataset_config to one of them"
    )


def test_an_empty_folder_says_which_file_it_wants(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path, "", "train")
    assert caught.value.message == f"Split not found: `train` in {tmp_path}"
    assert caught.value.hint == "put train.jsonl, train.csv or train.parquet there"


def test_a_split_in_two_kinds_of_file_is_not_guessed(tmp_path: Path) -> None:
    write(tmp_path / "train.json", {"n": 1})
    write(tmp_path / "train.jsonl", {"n": 1})
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path, "", "train")
    assert caught.value.message == (
        f"Split in two kinds of file: `train` in {tmp_path} is train.json, train.jsonl"
    )


def test_a_single_file_is_the_training_split_and_never_the_evaluation(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", {"n": 1})
    write(tmp_path / "test.jsonl", {"n": 2})
    assert read_single(path, "train", "train") == [{"n": 1}]
    with pytest.raises(DataError) as caught:
        read_single(path, "test", "train")
    assert caught.value.message == (
        f"Split not found: `test`; {path} is one table and has only the split `train`"
    )
    assert caught.value.hint == (
        "make a folder with train.jsonl and test.jsonl and set `dataset` to it; to train without "
        "evaluation, `eval_steps = 0`; to evaluate on this file, `--split train`"
    )


def test_a_file_named_after_a_split_has_its_neighbours_as_the_others(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", {"n": 1})
    test = write(tmp_path / "test.jsonl", {"n": 2})
    assert read_single(train, "train", "train") == [{"n": 1}]
    assert read_single(train, "test", "train") == [{"n": 2}]
    assert read_single(test, "test", "train") == [{"n": 2}]
    assert read_single(test, "train", "train") == [{"n": 1}]
    test.unlink()
    with pytest.raises(DataError, match="Split not found: `test` in "):
        read_single(train, "test", "train")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sums.xlsx"
    path.touch()
    with pytest.raises(DataError) as caught:
        read_single(path, "train", "train")
    assert caught.value.message == f"Unknown kind of file: {path}"


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_file(tmp_path / "gone.jsonl")
    assert caught.value.message == f"Failed to read {tmp_path}/gone.jsonl: No such file or directory"


def test_names_that_mean_a_path() -> None:
    for name in ("./data", "../data", "/data", "~/data", "sums.jsonl", "my/sums.JSON", "a/b/c"):
        assert looks_like_path(name), name
    for name in ("openai/gsm8k", "squad", "owner/name.v2"):
        assert not looks_like_path(name), name


def test_the_nearest_name_beside_a_missing_path(tmp_path: Path) -> None:
    write(tmp_path / "sums.jsonl")
    assert nearby(tmp_path / "sum.jsonl") == f"did you mean `{tmp_path}/sums.jsonl`?"
    assert nearby(tmp_path / "zzz/q") == f"relative paths start at {Path.cwd()}"
