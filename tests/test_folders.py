"""Folders that are replaced whole, whatever call the process dies in."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from grpo_cli import folders
from grpo_cli.folders import new_folder, put_back, remove, take_place


class Killed(BaseException):
    """The process ends here: no handler of ours runs."""


def folder_with(path: Path, content: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "x").write_text(content)
    return path


def calls(
    monkeypatch: pytest.MonkeyPatch, deadly: int, names: tuple[tuple[object, str], ...]
) -> Callable[[], int]:
    """Count the calls that change names on the disk; from the one numbered `deadly` on nothing is done."""
    count = 0

    def wrapped(real: Callable[..., object]) -> Callable[..., object]:
        def call(*values: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count > deadly:
                raise Killed
            return real(*values, **named)

        return call

    for owner, name in names:
        monkeypatch.setattr(owner, name, wrapped(getattr(owner, name)))
    return lambda: count


CHANGES = (
    (folders, "_swapped"),
    (Path, "rename"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "fsync"),
)


@pytest.mark.parametrize("swaps", [True, False])
def test_a_process_that_dies_in_any_call_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    seen = set()
    for deadly in range(20):
        path = folder_with(tmp_path / str(deadly) / "model [1]", "old")
        new = folder_with(new_folder(path), "new")
        with monkeypatch.context() as patch:
            if not swaps:
                patch.setattr(folders, "_swapped", lambda *_: False)
            count = calls(patch, deadly, CHANGES)
            with suppress(Killed):
                take_place(new, path)
            finished = count() <= deadly
        if swaps:
            assert path.is_dir(), f"after call {deadly} there is neither"
        put_back(path)  # what the next command does first
        content = (path / "x").read_text()
        seen.add(content)
        assert content in ("old", "new")
        if finished:
            break
    assert finished and seen == {"old", "new"}
    assert [child.name for child in path.parent.iterdir()] == ["model [1]"]


def test_the_only_copy_gets_its_name_back(tmp_path: Path) -> None:
    for name in (".a.grpo-old", ".b.grpo-tmp-x3k9-old"):
        folder_with(tmp_path / name, name)
    put_back(tmp_path / "a")
    put_back(tmp_path / "b")
    assert (tmp_path / "a/x").read_text() == ".a.grpo-old"
    assert (tmp_path / "b/x").read_text() == ".b.grpo-tmp-x3k9-old"


def test_a_failed_second_rename_undoes_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder_with(tmp_path / "model", "old")
    monkeypatch.setattr(folders, "_swapped", lambda *_: False)
    with pytest.raises(FileNotFoundError):
        take_place(tmp_path / "missing", path)
    assert (path / "x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_of_a_link_only_the_link_is_replaced(tmp_path: Path) -> None:
    theirs = folder_with(tmp_path / "theirs", "theirs")
    (tmp_path / "checkpoint-1").symlink_to(theirs)
    take_place(folder_with(new_folder(tmp_path / "checkpoint-1"), "new"), tmp_path / "checkpoint-1")
    assert (theirs / "x").read_text() == "theirs"
    assert (tmp_path / "checkpoint-1/x").read_text() == "new"
    assert sorted(child.name for child in tmp_path.iterdir()) == ["checkpoint-1", "theirs"]


def test_nothing_and_an_empty_folder_make_place(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        take_place(folder_with(new_folder(path), "new"), path)
        assert (path / "x").read_text() == "new"


def test_a_link_is_removed_without_what_it_leads_to(tmp_path: Path) -> None:
    theirs = folder_with(tmp_path / "theirs", "theirs")
    (tmp_path / "link").symlink_to(theirs)
    remove(tmp_path / "link")
    assert (theirs / "x").is_file() and not os.path.lexists(tmp_path / "link")
