"""Load the examples of a split, whatever kind of dataset the configuration names.

    arithmetic                      the embedded task
    data/questions.jsonl            a file: JSON, JSONL, CSV, TSV, Parquet or Arrow, compressed or not
    data/                           a folder of such files, a saved dataset, a cloned repository
    openai/gsm8k                    a dataset on the hub

Local files have priority over the hub. Every kind of dataset gets the system prompt.
"""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from grpo_cli.config.schema import Config
from grpo_cli.data import arithmetic, hub, local
from grpo_cli.data.rows import Row, Tell, examples_from, silence
from grpo_cli.errors import DataError
from grpo_cli.files import chosen_path
from grpo_cli.types import Example
from grpo_cli.uncollected import uncollected

OFTEN = 1000  # rows between two checks of the clock


def load_examples(
    config: Config, split: str, tell: Tell = silence, progress: Tell = silence
) -> list[Example]:
    """The examples of a split in dataset order; for the training split, the first max_train_samples.

    `tell` gets notices for the user, `progress` the state of a read that takes over a second. Raises
    DataError if the dataset, its split or a column is missing, if the split is empty, or for a row with an
    unusable prompt or answer.
    """
    limit = (config.max_train_samples if split == config.train_split else 0) or None
    with uncollected():
        if config.dataset == "arithmetic":
            return arithmetic.load(config, split, limit)
        rows = list(
            watched(islice(read_rows(config, split, limit or 0), limit), f"reading split `{split}`", progress)
        )
        if not rows:
            raise DataError(
                f"Empty split: `{split}` of {config.dataset} has no rows",
                "name another split with train_split or eval_split, or fill the file",
            )
        return examples_from(rows, config, split, tell)


def watched(rows: Iterator[Row], doing: str, progress: Tell) -> Iterator[Row]:
    """The rows; `progress` gets their count every second."""
    due = time.monotonic() + 1.0
    for count, row in enumerate(rows, start=1):
        if count % OFTEN == 0 and time.monotonic() > due:
            progress(f"{doing}: {count:,} rows")
            due = time.monotonic() + 1.0
        yield row


def read_rows(config: Config, split: str, limit: int) -> Iterator[Row]:
    """The split's first `limit` rows (0: all) from a file, a folder or the hub."""
    name = config.dataset
    check_dataset(name)
    path = as_seen_from_here(chosen_path(name))
    if path.is_dir():
        return local.read_folder(path, config.dataset_config, split, config.train_split)
    if path.is_file():
        return local.read_single(path, split, config.train_split)
    return hub.read(name, config.dataset_config, split, limit)


def check_dataset(name: str) -> None:
    """Raise DataError early for a name that is neither on the disk nor a hub name."""
    path = as_seen_from_here(chosen_path(name))
    if name == "arithmetic" or path.is_file() or path.is_dir():
        return
    if path.exists():
        raise DataError(
            f"Dataset is neither a file nor a folder: {name}",
            "a pipe or a device can be read only once, but a dataset is read for every split: write its "
            "rows to a file first",
        )
    if meant := hub.meant_arithmetic(name):
        raise DataError(f"Dataset not found: {name}", meant)
    if local.looks_like_path(name) or local.nearly_there(path):
        raise DataError(f"Dataset not found: {name}", local.nearby(path))


def as_seen_from_here(path: Path) -> Path:
    """The path relative to the current folder, if possible."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
