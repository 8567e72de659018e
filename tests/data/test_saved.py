"""Datasets that save_to_disk wrote: their values, and damage that is named."""

from pathlib import Path

import datasets
import pytest

from grpo_cli.errors import DataError
from tests.support.datasets import TEST, TRAIN, loaded, typed


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
