"""Read datasets from the disk: a JSON, JSONL or Parquet file, or a folder of files named after splits.

    data/train.jsonl  data/test.jsonl                       a folder, `dataset = "data"`
    data/train-00000-of-00002.parquet  …                    in shards, as on the hub; also below data/data/
    data/main/train.jsonl                                   with `dataset_config = "main"`

A single file is its own split when it is named after one (`test.jsonl`), and its neighbours are the
others. Any other file (`sums.jsonl`) has one split, the training split: evaluation never reads
training rows by accident.

JSON is read with the standard library and not with `datasets`: its JSON reader guesses a type for a
whole column (a text "2024-01-05" becomes a date, 12 becomes 12.0), and its cache would have to be
kept from serving an older version of the file.
"""

import json
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from grpo_cli.data.rows import Row
from grpo_cli.errors import DataError

SPLIT_FILE = re.compile(
    r"(?P<split>.+?)(-\d+-of-\d+(-\w+)?)?(?P<suffix>\.jsonl|\.json|\.parquet)", re.IGNORECASE
)
SPLIT_NAMES = ("train", "test", "validation", "valid", "val", "dev", "eval")
ONE_OBJECT_A_LINE = "a JSONL file has one JSON object a line; a JSON file may also be one list of objects"


def looks_like_path(name: str) -> bool:
    """Whether a name that does not exist on the disk was meant to: `./data`, `sums.jsonl`, `a/b/c`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix.lower() in READERS


def nearby(path: Path) -> str:
    """A hint for a path that does not exist: the nearest name beside it."""
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, n=1)
    return f"did you mean `{path.parent / near[0]}`?" if near else f"looked from the folder {Path.cwd()}"


def read_single(path: Path, split: str, train_split: str) -> list[Row]:
    """The split's rows when `dataset` names one file."""
    match = SPLIT_FILE.fullmatch(path.name)
    if match is None:
        raise DataError(f"Unknown kind of file: {path}", "a dataset is a .json, .jsonl or .parquet file")
    named_after_split = match["split"] in (*SPLIT_NAMES, train_split)
    if split == (match["split"] if named_after_split else train_split):
        return read_file(path)
    if named_after_split:
        return read_folder(path.parent, "", split)
    raise DataError(
        f"Split not found: `{split}`; {path} is one file and has only the split `{train_split}`",
        f"make a folder with {train_split}{path.suffix} and {split}{path.suffix} and set `dataset` to it; "
        f"to train without evaluation, `eval_steps = 0`; to evaluate on this file, `--split {train_split}`",
    )


def read_folder(folder: Path, config_name: str, split: str) -> list[Row]:
    """The split's rows from the files in the folder (or its subfolder) that are named after it."""
    files: dict[str, list[Path]] = {}
    for root in roots(folder, config_name):
        for path in sorted(root.iterdir()):
            match = SPLIT_FILE.fullmatch(path.name)
            if match and path.is_file():
                files.setdefault(match["split"], []).append(path)
        if files:
            break
    if split not in files:
        raise DataError(
            f"Split not found: `{split}` in {folder}",
            splits_hint(list(files)) if files else no_files_hint(folder, split),
        )
    if len({path.suffix.lower() for path in files[split]}) > 1:
        names = ", ".join(path.name for path in files[split])
        raise DataError(
            f"Split in two kinds of file: `{split}` in {folder} is {names}", "keep one kind, or name one file"
        )
    return [row for path in files[split] for row in read_file(path)]


def roots(folder: Path, config_name: str) -> list[Path]:
    """Where the split files may lie, in order: the configuration's subfolder, the folder, its data/."""
    candidates = [folder / config_name, folder, folder / "data"] if config_name else [folder, folder / "data"]
    return [root for root in candidates if root.is_dir()]


def splits_hint(splits: list[str]) -> str:
    """What to do about a split that is not among those there are."""
    return (
        f"its splits: {', '.join(splits)}; name one with train_split or eval_split; "
        "to train without evaluation, `eval_steps = 0`"
    )


def no_files_hint(folder: Path, split: str) -> str:
    """What to do about a folder without any data file."""
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if inside:
        return f"it has no data files; its folders are {', '.join(inside)}: set dataset_config to one of them"
    return f"put {split}.jsonl, {split}.json or {split}.parquet there"


def read_file(path: Path) -> list[Row]:
    """All rows of one file. Raises DataError that names the file and, for JSON, the line."""
    try:
        return READERS[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(
            f"Failed to read {path}: {error.strerror or error}", "check the path and its permissions"
        ) from error


def read_jsonl(path: Path) -> list[Row]:
    """One object a line; blank lines are skipped."""
    return list(json_lines(path))


def json_lines(path: Path) -> Iterator[Row]:
    """The objects of a JSONL file, one by one."""
    with path.open("rb") as file:  # bytes: a line ends at \n alone, and never at the U+2028 of some text
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield as_row(parse(line.rstrip(), path, number), f"line {number} of {path}")


def read_json(path: Path) -> list[Row]:
    """A list of objects, or one object a line."""
    content = path.read_bytes()
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return read_jsonl(path)
    items = enumerate(parse(content, path, 1), start=1)
    return [as_row(item, f"item {number} of {path}") for number, item in items]


def as_row(value: Any, place: str) -> Row:
    """The value, if it is an object."""
    if not isinstance(value, dict):
        raise DataError(f"Not an object: {place} is {json.dumps(value)[:80]}", ONE_OBJECT_A_LINE)
    return value


def parse(content: bytes, path: Path, first_line: int) -> Any:
    """Parse JSON that starts on `first_line` of the file."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        place = f"{path}, line {first_line + error.lineno - 1}, column {error.colno}"
        raise DataError(f"Broken JSON: {place}: {error.msg}", ONE_OBJECT_A_LINE) from error
    except (ValueError, RecursionError) as error:  # not UTF-8; a number or a nesting beyond all measure
        raise DataError(f"Broken JSON: {path}, line {first_line}: {error}", ONE_OBJECT_A_LINE) from error


def read_parquet(path: Path) -> list[Row]:
    """The rows of a Parquet file."""
    import pyarrow
    from pyarrow import parquet  # comes with `datasets`; not needed for JSON

    try:
        return parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"Broken Parquet file: {path}: {error}", "download or write it again") from error


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
}
