"""Datasets as people have them: layouts × formats, prompt shapes, answer shapes; every value compared."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy
import pyarrow
import pytest
from pyarrow import parquet

from grpo_cli.config.schema import Config
from grpo_cli.data.load import load_examples
from grpo_cli.errors import DataError

Rows = list[dict[str, Any]]
TRAIN: Rows = [
    {"question": "1 + 1?", "answer": "2", "level": 3, "note": "2024-01-05"},
    {"question": 'a "b", c\n\td?', "answer": "05", "level": 4, "note": "é 🙂"},
    {"question": "NA", "answer": "1,000", "level": 5, "note": None},
]
TEST: Rows = [{"question": "9 + 9?", "answer": "$18", "level": 1, "note": "None"}]


# --- formats ------------------------------------------------------------------------------------------


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
README = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: a/*\n  - split: test\n    path: b.*\n---\n"  # noqa: E501
# Layout → the files of train and test, {} for the suffix; and the other files there are.
LAYOUTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "names": ("train{}", "test{}", {"notes.txt": "x"}),
    "data": ("data/train{}", "data/test{}", {"dataset_infos.json": "{}", "README.md": "# A dataset\n"}),
    "shards": (
        "data/train-00000-of-00001-ab12{}",
        "data/test-00000-of-00001-ab12{}",
        {"croissant.json": "{}"},
    ),
    "folders": ("train/0000{}", "test/0000{}", {"README.md": "x"}),
    "deeper": ("default/train/0000{}", "default/test/0000{}", {}),
    "words": ("data/my-train{}", "data/my-test{}", {}),
    "readme": ("a/x{}", "b{}", {"README.md": README, "train.py": "raise SystemExit('run')"}),
    "yaml": ("a/x{}", "b{}", {".huggingface.yaml": README.strip("-\n")}),
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


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_in_every_format(tmp_path: Path, layout: str, suffix: str) -> None:
    folder = tmp_path / "my [v1] *"  # a name is no pattern
    train, test, others = LAYOUTS[layout]
    put(folder / train.format(suffix), FORMATS[suffix](TRAIN))
    put(folder / test.format(suffix), FORMATS[suffix](TEST))
    for name, content in others.items():
        put(folder / name, content.encode())
    assert typed(loaded(folder, "train")) == typed(TRAIN)
    assert typed(loaded(folder, "test")) == typed(TEST)


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    both = {"train": datasets.Dataset.from_list(TRAIN), "test": datasets.Dataset.from_list(TEST)}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "both [1]")
    both["train"].save_to_disk(tmp_path / "one")
    for path in ("both [1]", "both [1]/train", "one", "one/data-00000-of-00001.arrow"):
        assert typed(loaded(tmp_path / path, "train")) == typed(TRAIN)
    for path in ("both [1]", "both [1]/train", "both [1]/test"):
        assert typed(loaded(tmp_path / path, "test")) == typed(TEST)
    with pytest.raises(DataError, match="one is one table and has only the split `train`"):
        loaded(tmp_path / "one", "test")
    both["test"].save_to_disk(tmp_path / "one")  # a changed dataset is read anew
    assert typed(loaded(tmp_path / "one", "train")) == typed(TEST)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", '{"_data_files": [{"filename": "../x.arrow"}]}'),
        ("state.json", "[1]"),
        ("state.json", '{"_data_files": []}'),
        ("dataset_info.json", "{"),
        ("dataset_info.json", '{"features": {"a": {"_type": "Nonsense"}}}'),
        ("data-00000-of-00001.arrow", "x"),
    ],
)
def test_a_damaged_saved_dataset_is_named(tmp_path: Path, file: str, content: str) -> None:
    datasets.Dataset.from_list(TRAIN).save_to_disk(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=f"Broken saved dataset: {tmp_path}: "):
        loaded(tmp_path, "train")


@pytest.mark.parametrize(
    "data_files",
    [
        "https://example.org/x.csv",
        "/etc/passwd",
        "../x.jsonl",
        "zip://a::b",
        "hf://datasets/a/b",
        "file:///x",
    ],
)
def test_a_readme_leads_neither_out_of_its_folder_nor_to_the_network(tmp_path: Path, data_files: str) -> None:
    put(
        tmp_path / "a/README.md", f"---\nconfigs:\n- config_name: a\n  data_files: {data_files}\n---".encode()
    )
    put(tmp_path / "x.jsonl", lines(TRAIN))
    with pytest.raises(DataError, match="which is not in the folder"):
        loaded(tmp_path / "a", "train")


@pytest.mark.parametrize(
    "names", [("main/train.jsonl", "socratic/train.jsonl"), ("easy.jsonl", "hard.jsonl")]
)
def test_files_that_may_be_different_things_are_not_put_together(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        put(tmp_path / name, lines(TRAIN))
    with pytest.raises(DataError, match="Split not found: `train`"):
        loaded(tmp_path, "train")
    assert typed(loaded(tmp_path, "hard", train_split="hard") if "hard" in names[1] else TRAIN) == typed(
        TRAIN
    )


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


# --- prompts ------------------------------------------------------------------------------------------

ASKED = {"role": "user", "content": "9 + 9?"}
SAID = {"role": "assistant", "content": "#### 18"}
PARTS = [{"type": "text", "text": "9 "}, {"type": "text", "text": "+ 9?"}]
RULE = {"role": "system", "content": "Be short."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "add"}}]}
RESULT = {"role": "tool", "content": "18", "tool_call_id": "1"}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ("9 + 9?", [ASKED]),
        ("\x00 \x1b[31m", [{"role": "user", "content": "\x00 \x1b[31m"}]),
        ([ASKED], [ASKED]),
        ([{"role": "user", "content": PARTS}], [ASKED]),
        ([{"role": "developer", "content": "Be short."}, ASKED], [RULE, ASKED]),
        ([{"from": "system", "value": "Be short."}, {"from": "human", "value": "9 + 9?"}], [RULE, ASKED]),
        ([{"from": "human", "value": "9 + 9?"}, {"from": "gpt", "value": "18"}], [ASKED]),
        ([ASKED, SAID], [ASKED]),
        ([RULE, ASKED, SAID, ASKED, SAID], [RULE, ASKED, SAID, ASKED]),
        ([ASKED, {**CALL, "content": None}, RESULT], [ASKED, CALL, RESULT]),
        ([ASKED, CALL, RESULT, SAID], [ASKED, CALL, RESULT]),
    ],
)  # fmt: skip
def test_every_shape_of_a_prompt(tmp_path: Path, prompt: Any, messages: Any, suffix: str) -> None:
    put(tmp_path / f"train{suffix}", FORMATS[suffix]([{"question": prompt, "answer": "18"}]))
    [example] = load_examples(Config(dataset=str(tmp_path), system_prompt=""), "train")
    assert (example.messages, example.answer) == (messages, "18")


@pytest.mark.parametrize(
    ("row", "keys", "messages"),
    [
        ({}, {}, [ASKED]),
        ({}, {"system_prompt": "Be short."}, [RULE, ASKED]),
        ({"system": "Be short."}, {"system_prompt": "Be long."}, [RULE, ASKED]),
        ({"system": None}, {"system_prompt": "Be short."}, [RULE, ASKED]),
        ({"system": "Be long."}, {"system_column": "", "system_prompt": "Be short."}, [RULE, ASKED]),
        ({"rule": "Be short."}, {"system_column": "rule"}, [RULE, ASKED]),
        ({"system": "Be long.", "question": [RULE, ASKED]}, {}, [RULE, ASKED]),
        ({"system": "Be long."}, {"prompt_format": "text", "system_prompt": "Be short."}, [ASKED]),
    ],
)
def test_the_system_message(tmp_path: Path, row: Any, keys: Any, messages: Any) -> None:
    put(tmp_path / "a.jsonl", lines([{"question": "9 + 9?", "answer": 18, **row}]))
    [example] = load_examples(
        Config(**{"dataset": str(tmp_path / "a.jsonl"), "system_prompt": "", **keys}), "train"
    )
    assert example.messages == messages


# --- answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "column", "answer"),
    [
        ({"reward_model": {"ground_truth": "18", "style": "rule"}}, "reward_model.ground_truth", "18"),
        ({"reward_model": {"ground_truth": {"target": ["a"]}}}, "reward_model.ground_truth.target", "a"),
        ({"info": '{"ground_truth": "18"}'}, "info.ground_truth", "18"),
        ({"info": '{"ground_truth": "[1, 2]"}'}, "info.ground_truth", "[1, 2]"),
        ({"answers": ["a", "b"]}, "answers", '["a", "b"]'),
        ({"answers": ["a", "b"]}, "answers.1", "b"),
        ({"a.b": "18", "a": {"b": "19"}}, "a.b", "18"),
        ({"label": True}, "label", "True"),
        ({"label": 0}, "label", "0"),
        ({"answer": "18"}, "", ""),
    ],
)
def test_every_shape_of_an_answer(tmp_path: Path, row: Any, column: str, answer: str) -> None:
    put(tmp_path / "a.jsonl", lines([{"question": "9 + 9?", **row}]))
    [example] = load_examples(Config(dataset=str(tmp_path / "a.jsonl"), answer_column=column), "train")
    assert example.answer == answer
    assert typed([example.columns]) == typed([{"question": "9 + 9?", **row}])


def test_an_object_is_no_answer_and_the_hint_names_what_is_in_it(tmp_path: Path) -> None:
    row = {"question": "a", "reward_model": {"style": "rule", "ground_truth": "1"}}
    put(tmp_path / "a.jsonl", lines([row]))
    with pytest.raises(DataError) as caught:
        loaded(tmp_path / "a.jsonl", "train", answer_column="reward_model")
    assert caught.value.hint == 'name one of its values: `answer_column = "reward_model.style"`'
    with pytest.raises(DataError) as caught:
        loaded(tmp_path / "a.jsonl", "train")
    assert caught.value.hint.startswith('did you mean `answer_column = "reward_model.ground_truth"`?')


def test_the_assistants_last_message_is_the_answer_where_there_is_no_column(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", lines([{"messages": [ASKED, SAID]}, {"messages": [ASKED]}]))
    told: list[str] = []
    config = Config(dataset=str(tmp_path / "a.jsonl"), prompt_column="messages", max_train_samples=1)
    [example] = load_examples(config, "train", told.append)
    assert (example.messages[1:], example.answer) == ([ASKED], "18")
    assert told == [
        "split `train`: there is no column `answer`, so the assistant's last message in `messages` is the "
        "answer and not part of the prompt"
    ]
    with pytest.raises(DataError) as caught:
        loaded(tmp_path / "a.jsonl", "train", prompt_column="messages")
    assert caught.value.message == (
        f"No answer: the assistant's last message in `messages` in line 2 of {tmp_path}/a.jsonl, "
        "split `train`, is missing or null"
    )


# --- errors that lead to the row -----------------------------------------------------------------------


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


@pytest.mark.parametrize("escape", ["\\ud83d", "\\uD83D", "\\ude00", "x\\uDE00\\ud83d"])
@pytest.mark.parametrize("column", ["question", "answer", "note", "deep", "key"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_half_of_a_character_is_refused_wherever_it_is(
    tmp_path: Path, escape: str, column: str, suffix: str
) -> None:
    row = {"question": "a", "answer": "1", "note": "x"}
    spelled = {"deep": '"deep": [{"x": ["%s"]}]', "key": '"%s": 1'}.get(column, f'"{column}": "%s"') % escape
    text = json.dumps({name: value for name, value in row.items() if name != column})[:-1] + f", {spelled}}}"
    good = json.dumps({**row, "note": "🙂"})  # a whole pair is a character
    content = f"[{good},\n{text}]" if suffix == ".json" else f"{good}\n{text}\n"
    put(tmp_path / f"train{suffix}", content.encode())
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, "train")
    what = "a key" if column == "key" else f"`{column}`"
    place = ("item" if suffix == ".json" else "line") + f" 2 of {tmp_path}/train{suffix}"
    assert caught.value.message.startswith(f"Half of a character: {what} in {place} has '\\u")
    caught.value.message.encode()
