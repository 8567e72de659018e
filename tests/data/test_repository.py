"""Cloned repositories as people have them: every layout in every format, and paths that lead out."""

from pathlib import Path

import pytest

from grpo_cli.errors import DataError
from tests.support.datasets import FORMATS, TEST, TRAIN, lines, loaded, put, typed

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
