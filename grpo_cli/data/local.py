"""Local datasets: the rows of a split from a file, a folder, a saved dataset or a cloned repository.

    sums.jsonl                                  one split, the training split
    data/train.jsonl  data/test.jsonl           a folder, `dataset = "data"`
    data/train-00000-of-00002.parquet  …        in shards, as on the hub; also below data/data/
    data/train/0000.parquet  …                  a folder for each split
    data/main/train.jsonl                       any of these, with `dataset_config = "main"`
    data/dataset_dict.json  …                   what `save_to_disk` of `datasets` wrote
    data/README.md  …                           a cloned repository: its README may name the files

A single file named after a split (`test.jsonl`) is that split, and its neighbours are the
others. Any other file (`sums.jsonl`) has one split, the training split: evaluation never reads
training rows by accident. Nothing here touches the network.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from grpo_cli.data import repository, saved
from grpo_cli.data.readers import COMPRESSED, KINDS, read_file, suffix_of
from grpo_cli.data.rows import Row
from grpo_cli.errors import DataError

SHARD = re.compile(r"(?P<split>.+?)(-\d+-of-\d+(-\w+)?)?(\.\w+)(\.\w+)?", re.IGNORECASE)
SPLIT_NAMES = ("train", "test", "validation", "valid", "val", "dev", "eval")
NEARLY = 0.8  # similarity above which a possible hub name counts as a misspelt local one


def looks_like_path(name: str) -> bool:
    """True if a name that does not exist on the disk was meant as a path: `./data`, `sums.jsonl`, `a/b/c`."""
    is_file = bool(suffix_of(Path(name))) or Path(name).suffix.lower() in COMPRESSED
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or is_file


def beside(path: Path) -> list[str]:
    """The names in the path's parent folder."""
    try:
        return sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return []


def nearest(path: Path, likeness: float = 0.6) -> Path | None:
    """The local dataset whose name, with or without suffix, is most similar to a missing path's."""
    plain: dict[str, str] = {}
    for name in beside(path):
        if (path.parent / name).is_dir() or suffix_of(path.parent / name):
            plain.setdefault(name.partition(".")[0], name)
            plain[name] = name
    near = get_close_matches(path.name, plain, n=1, cutoff=likeness)
    return path.parent / plain[near[0]] if near else None


def nearby(path: Path) -> str:
    """The hint for a missing path."""
    near = nearest(path)
    return f"did you mean `{near}`?" if near else f"relative paths start at {Path.cwd()}"


def nearly_there(path: Path) -> bool:
    """True if the name is probably a misspelt local one, so that the hub is not asked."""
    return nearest(path, NEARLY) is not None


def read_single(path: Path, split: str, train_split: str) -> Iterator[Row]:
    """The split's rows if `dataset` names a single file."""
    if not suffix_of(path):
        raise DataError(f"Unknown kind of file: {path}", f"a dataset is one of {KINDS}")
    own = split_of(path)
    named_after_split = own in (*SPLIT_NAMES, train_split)
    if split == (own if named_after_split else train_split):
        return read_file(path)
    if named_after_split:
        return read_folder(path.parent, "", split, train_split)
    raise only_split(path, split, train_split, path.suffix)


def only_split(path: Path, split: str, train_split: str, suffix: str = ".jsonl") -> DataError:
    """The error for a split that a single file, or a saved `Dataset`, does not have."""
    return DataError(
        f"Split not found: `{split}`; {path} is one table and has only the split `{train_split}`",
        f"make a folder with {train_split}{suffix} and {split}{suffix} and set `dataset` to it; "
        f"to train without evaluation, `eval_steps = 0`; to evaluate on this file, `--split {train_split}`",
    )


def read_folder(folder: Path, config_name: str, split: str, train_split: str = "train") -> Iterator[Row]:
    """The split's rows from a folder of any layout. Raises DataError if the split does not exist."""
    root = root_of(folder, config_name)
    if saved.is_dict(root):
        return saved.read_dict(root, split)
    if saved.is_one(root):
        return read_saved(root, split, train_split)
    files = repository.described(folder, config_name) or split_files(root, split)
    if split not in files:
        raise DataError(
            f"Split not found: `{split}` in {folder}",
            splits_hint(list(files)) if files else no_files_hint(folder, split),
        )
    if len({suffix_of(path) for path in files[split]}) > 1:
        names = ", ".join(path.name for path in files[split])
        raise DataError(
            f"Split in two kinds of file: `{split}` in {folder} is {names}", "keep one kind, or name one file"
        )
    return (row for path in files[split] for row in read_file(path))


def read_saved(folder: Path, split: str, train_split: str) -> Iterator[Row]:
    """The split's rows from a saved `Dataset`, which, like a file, has one split or neighbours."""
    named_after_split = folder.name in (*SPLIT_NAMES, train_split)
    if split == (folder.name if named_after_split else train_split):
        return saved.read_one(folder)
    if named_after_split and saved.is_dict(folder.parent):
        return saved.read_dict(folder.parent, split)
    raise only_split(folder, split, train_split)


def root_of(folder: Path, config_name: str) -> Path:
    """The folder of the splits: the configuration's folder if it exists, else the dataset's."""
    candidates = (folder / config_name, folder / "data" / config_name) if config_name else ()
    return next((root for root in candidates if root.is_dir()), folder)


def split_files(root: Path, split: str) -> dict[str, list[Path]]:
    """Split → its files: named after it, in a folder named after it, or found as `datasets` does."""
    seen: dict[str, list[Path]] = {}
    for folder in filter(Path.is_dir, (root, root / "data")):
        files = named_files(folder, (*SPLIT_NAMES, split))
        if split in files:
            return files
        seen |= files
    return {**seen, **repository.found(root, SPLIT_NAMES), **seen}


def named_files(folder: Path, split_names: tuple[str, ...]) -> dict[str, list[Path]]:
    """Split → data files in a folder that carry its name, themselves or by their folder."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name in split_names:
            found = [
                child for child in sorted(path.iterdir()) if child.is_file() and repository.is_data(child)
            ]
            files |= {path.name: files.get(path.name, []) + found} if found else {}
        elif path.is_file() and repository.is_data(path):
            files.setdefault(split_of(path), []).append(path)
    return files


def split_of(path: Path) -> str:
    """The split in a file name: train for train-00000-of-00002.parquet."""
    match = SHARD.fullmatch(path.name)
    return match["split"] if match else path.name


def splits_hint(splits: list[str]) -> str:
    """The hint for an unknown split."""
    return (
        f"its splits: {', '.join(splits)}; name one with train_split or eval_split; "
        "to train without evaluation, `eval_steps = 0`"
    )


def no_files_hint(folder: Path, split: str) -> str:
    """The hint for a folder without data files."""
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if inside:
        return f"it has no data files; its folders are {', '.join(inside)}: set dataset_config to one of them"
    return f"put {split}.jsonl, {split}.csv or {split}.parquet there"
