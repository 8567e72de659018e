"""A folder that appears complete or not at all."""

import os
from pathlib import Path

import pytest

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.staging import check_output, existing_parent, staged


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_folder_gets_its_name_at_the_end(tmp_path: Path) -> None:
    output = tmp_path / "models/new"
    with staged(output, force=False) as folder:
        (folder / "config.json").write_text("new")
        assert not output.exists()
        assert folder.parent == output.parent  # on the same disk, for the renaming
    assert listing(tmp_path) == ["models", "models/new", "models/new/config.json"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, ConversionError])
def test_a_failure_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), staged(tmp_path / "new", force=False) as folder:
        (folder / "half").write_text("half")
        raise failure("stop")
    assert listing(tmp_path) == []


def model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("old")
    return folder


def refused(output: Path, force: bool = False) -> ConversionError:
    with pytest.raises(ConversionError) as error:
        check_output(output, force)
    return error.value


def test_what_is_there_is_refused_and_replaced_with_force(tmp_path: Path) -> None:
    output = model(tmp_path / "old")
    error = refused(output)
    assert error.message == f"Failed to convert model: {output} exists already"
    assert "--force" in error.hint
    with staged(output, force=True) as folder:
        (folder / "weights").write_text("new")
        assert listing(output) == ["config.json"]  # until the new one is complete
    assert listing(tmp_path) == ["old", "old/weights"]


def test_a_failure_keeps_what_was_there(tmp_path: Path) -> None:
    output = model(tmp_path / "old")
    with pytest.raises(ValueError, match="stop"), staged(output, force=True) as folder:
        (folder / "weights").write_text("new")
        raise ValueError("stop")
    assert listing(tmp_path) == ["old", "old/config.json"]


def test_force_replaces_models_only(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "holds something other than a model" in refused(tmp_path, force=True).message
    assert "is a file" in refused(tmp_path / "thesis.txt", force=True).message
    empty = tmp_path / "empty"
    empty.mkdir()
    check_output(empty, force=False)
    with staged(empty, force=False) as folder:
        (folder / "x").write_text("x")
    assert listing(empty) == ["x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConversionError) as error, staged(tmp_path / "new", force=False):
        pass
    assert (
        error.value.message == f"Failed to convert model: cannot write {tmp_path / 'new'}: Permission denied"
    )


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConversionError) as error, staged(tmp_path / "file/new", force=False):
        pass
    assert "cannot write" in error.value.message


def test_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert existing_parent(tmp_path / "a/b/c") == tmp_path
