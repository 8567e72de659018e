"""A folder that appears complete or not at all."""

import os
import signal
import time
from pathlib import Path

import pytest

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.staging import check_output, check_space, staged


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


def test_a_disk_without_room_names_the_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as error:
        check_space(tmp_path / "a/b/c", 10**18, "buy one")
    assert f"the conversion needs 1000000000.0 GB, and {tmp_path} has" in error.value.message
    assert error.value.hint == "buy one"


def test_what_came_in_the_way_meanwhile_stays(tmp_path: Path) -> None:
    output = tmp_path / "new"
    with pytest.raises(ConversionError, match="exists already"), staged(output, force=False) as folder:
        (folder / "config.json").write_text("ours")
        output.mkdir()
        (output / "thesis.txt").write_text("years of work")
    assert listing(tmp_path) == ["new", "new/thesis.txt"]


def test_a_renaming_that_fails_brings_the_old_model_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = model(tmp_path / "old")
    rename = Path.rename

    def fail_once(path: Path, target: Path) -> Path:
        if ".grpo-tmp-" in path.name:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    monkeypatch.setattr("grpo_cli.folders._swapped", lambda *_: False)
    with pytest.raises(ConversionError, match="Input/output error"), staged(output, force=True) as folder:
        (folder / "config.json").write_text("new")
    assert (output / "config.json").read_text() == "old"
    assert listing(tmp_path) == ["old", "old/config.json"]


def test_two_at_a_time_have_folders_of_their_own(tmp_path: Path) -> None:
    """The first to end has the name; the other one is refused and takes nothing with it."""
    output = tmp_path / "new"
    with pytest.raises(ConversionError, match="exists already"), staged(output, force=False) as one:
        with staged(output, force=False) as two:
            assert one != two
            (two / "config.json").write_text("two")
        (one / "config.json").write_text("one")
    assert (output / "config.json").read_text() == "two"
    assert listing(tmp_path) == ["new", "new/config.json"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_nothing(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "new", force=False) as folder:
        (folder / "half").write_text("half")
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert listing(tmp_path) == []
    assert signal.getsignal(number) == before


def test_force_leaves_what_a_conversion_does_not_write(tmp_path: Path) -> None:
    for stranger in (".git", "thesis.tex", "optim_000650.pt"):
        folder = model(tmp_path / stranger.strip("."))
        (folder / stranger).write_text("years of work")
        assert f"({stranger}), which `--force` does not delete" in refused(folder, force=True).message
    steps = tmp_path / "d20"
    steps.mkdir()
    for step in (1, 2):
        (steps / f"model_00000{step}.pt").write_text("")
    assert "(2 steps of nanochat's)" in refused(steps, force=True).message


def test_names_that_mean_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_output(tmp_path / "out [1]*?", force=False) == tmp_path / "out [1]*?"
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert check_output(tmp_path / "link", force=False) == tmp_path / "real"
    (tmp_path / "dangling").symlink_to(tmp_path / "later")
    assert check_output(tmp_path / "dangling", force=False) == tmp_path / "later"
    monkeypatch.chdir(tmp_path / "real")
    assert check_output(Path(), force=False) == tmp_path / "real"
    monkeypatch.setattr("grpo_cli.convert.staging.os.path.ismount", lambda path: Path(path).name == "real")
    assert "is the root of a disk" in refused(tmp_path / "real").message


def test_the_source_is_never_the_output(tmp_path: Path) -> None:
    source = model(tmp_path / "d20")
    (tmp_path / "other name").symlink_to(source)
    for output in (source, tmp_path, tmp_path / "other name"):
        with pytest.raises(ConversionError, match="contains the source"):
            check_output(output, True, [source])
    check_output(source / "inside", True, [source])


def test_what_a_killed_conversion_left_is_removed_and_a_running_ones_folder_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".new.grpo-tmp-abc"
    left.mkdir()
    (left / "half").write_text("gigabytes")
    other = tmp_path / ".newer.grpo-tmp-abc"
    other.mkdir()
    with staged(tmp_path / "new", force=False) as running:
        assert not left.exists()
        with pytest.raises(ValueError, match="stop"), staged(tmp_path / "new", force=False):
            assert running.exists()
            raise ValueError("stop")
        (running / "x").write_text("x")
    assert listing(tmp_path) == [".newer.grpo-tmp-abc", "new", "new/x"]
