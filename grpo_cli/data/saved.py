"""Read datasets written by `save_to_disk`: a `Dataset`, or a `DatasetDict` with a folder for each split.

Tables are read in place. Nothing is cached, decoded or fetched, whatever the saved state requests.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from grpo_cli.data.readers import rows_of
from grpo_cli.data.rows import Row
from grpo_cli.errors import DataError

DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def is_dict(folder: Path) -> bool:
    """True if the folder is a saved `DatasetDict`."""
    return (folder / DICT).is_file()


def is_one(folder: Path) -> bool:
    """True if the folder is a saved `Dataset`."""
    return (folder / STATE).is_file() and (folder / INFO).is_file()


def read_dict(folder: Path, split: str) -> Iterator[Row]:
    """The rows of a split of a saved `DatasetDict`. Raises DataError for an unknown split."""
    splits = [path.name for path in sorted(folder.iterdir()) if is_one(path)]
    if split not in splits:
        raise DataError(
            f"Split not found: `{split}` in {folder}",
            f"its splits: {', '.join(splits) or 'none'}; name one with train_split or eval_split; "
            "to train without evaluation, `eval_steps = 0`",
        )
    return read_one(folder / split)


def read_one(folder: Path) -> Iterator[Row]:
    """The rows of a saved `Dataset`. Raises DataError for a damaged folder."""
    import datasets
    import pyarrow

    datasets.disable_progress_bars()
    try:
        check_state(folder)
        yield from rows_of(datasets.Dataset.load_from_disk(str(folder)).with_format(None), str(folder))
    # `datasets` builds its features from the folder's JSON without checking it.
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"Broken saved dataset: {folder}: {type(error).__name__}: {' '.join(str(error).split())}",
            "save it again with `dataset.save_to_disk(FOLDER)`",
        ) from error


def check_state(folder: Path) -> None:
    """Raise ValueError if the state names a file outside the folder."""
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    names = [entry["filename"] for entry in state["_data_files"]]
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise ValueError(f"{STATE} names the file {strange[0]!r}, which is not in the folder")
