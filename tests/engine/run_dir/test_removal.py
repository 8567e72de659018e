"""Removal of a run's folder: what grpo wrote goes, everything else stays, and nothing is followed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from grpo_cli.engine.run_dir.lock import RunLock
from grpo_cli.engine.run_dir.removal import contents, is_ours, remove_run
from grpo_cli.errors import CheckpointError
from tests.support.finished_runs import finished
from tests.support.run_folders import checkpoint, finished_folder


def test_everything_that_a_real_run_writes_is_removed(tmp_path: Path) -> None:
    run = finished(tmp_path).run_dir
    assert contents(run)[1] == []
    assert remove_run(run) == []
    assert not run.exists()


def test_what_grpo_did_not_write_stays(tmp_path: Path) -> None:
    run = finished_folder(tmp_path, "run")
    (run / "notes.md").write_text("mine")
    (run / "checkpoint-best").mkdir()
    assert remove_run(run) == ["checkpoint-best", "notes.md"]
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-best", "notes.md"]


def test_links_in_a_run_are_removed_and_not_followed(tmp_path: Path) -> None:
    elsewhere = checkpoint(tmp_path / "disk", 2, 4)
    run = finished_folder(tmp_path, "run")
    (run / "checkpoint-2").symlink_to(elsewhere)
    (run / "rollouts").symlink_to(tmp_path / "disk")
    (run / "final" / "deep").symlink_to(tmp_path / "disk")
    assert remove_run(run) == []
    assert not run.exists()
    assert sorted(path.name for path in elsewhere.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "trainer_state.json",
    ]


def test_a_folder_that_is_a_link_is_refused_and_the_hint_removes_the_link(tmp_path: Path) -> None:
    run = finished_folder(tmp_path, "run")
    link = tmp_path / "a link"
    link.symlink_to(run)
    with pytest.raises(CheckpointError, match="is a link to another folder") as error:
        remove_run(link)
    cure(error.value.hint)
    assert not os.path.lexists(link)
    assert (run / "final" / "manifest.json").exists()


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    run = finished_folder(tmp_path, "run")
    before = contents(run)
    with RunLock(run):
        with pytest.raises(CheckpointError, match=f"is in use by the process {os.getpid()}"):
            remove_run(run)
        assert contents(run) == (sorted([*before[0], "run.lock"]), [])


def test_a_folder_that_cannot_be_written_is_an_error_whose_hint_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_folder(tmp_path, "run")
    (run / "final").chmod(0o555)
    real = shutil.rmtree

    def rmtree(name: str, *, dir_fd: int) -> None:  # root could write anything
        if not (run / name).stat().st_mode & 0o200:
            raise PermissionError(13, "Permission denied", name)
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(CheckpointError, match=r"^Cannot remove final: Permission denied") as error:
        remove_run(run)
    assert (run / "config.toml").exists()
    cure(error.value.hint)
    assert remove_run(run) == []
    assert not run.exists()


def test_what_an_interrupted_removal_leaves_is_still_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_folder(tmp_path, "run")
    real = os.unlink

    def unlink(path: str, *, dir_fd: int | None = None) -> None:
        if path == "training_log.jsonl":
            raise KeyboardInterrupt
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        remove_run(run)
    assert contents(run)[0] == ["config.toml", "training_log.jsonl"]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("checkpoint-40", True),
        ("checkpoint-40.aside-2", True),
        ("final.aside", True),
        ("training_log.jsonl.aside", True),
        (".checkpoint-40.grpo-tmp-x3k9", True),
        ("answers-3.jsonl", True),
        ("rollouts", True),
        ("trackers", True),
        ("incidents.jsonl", True),
        ("machines.jsonl", True),
        ("report.html", True),
        ("ended.json", True),
        ("checkpoint-40b", False),
        ("final2", False),
        ("model.safetensors", False),
        ("notes.aside", False),
        (".git", False),
        ("data.jsonl", False),
    ],
)
def test_names_of_ours(name: str, ours: bool) -> None:
    assert is_ours(name) is ours


def cure(hint: str) -> None:
    """Run the hint's command."""
    (command,) = re.findall("`([^`]+)`", hint)
    subprocess.run(["sh", "-c", command], check=True)
