"""A checkpoint is whole or not there; a disk that refuses it is named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_cli.engine.run_dir.checkpoint import save_checkpoint
from grpo_cli.errors import CheckpointError
from tests.support.snapshots import snapshot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with one checkpoint in it."""
    save_checkpoint(tmp_path / "checkpoint-1", snapshot(1))
    return tmp_path


def test_a_folder_that_cannot_be_written_is_named_and_leaves_nothing(folder: Path) -> None:
    (folder / "file").write_text("in the way")
    with pytest.raises(
        CheckpointError, match=r"^Failed to save checkpoint: .*(Not a directory|File exists)"
    ) as error:
        save_checkpoint(folder / "file" / "checkpoint-2", snapshot(2))
    assert "check the permissions" in error.value.hint
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-1", "file"]


def test_a_disk_that_is_full_leaves_the_last_checkpoint_and_no_part_of_the_new_one(folder: Path) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the middle."""
    limit = 1_000_000
    script = f"""
import resource, signal
from pathlib import Path
from grpo_cli import device
device.prepare()
from grpo_cli.engine.run_dir.checkpoint import save_checkpoint
from grpo_cli.errors import CheckpointError
from tests.support.snapshots import snapshot
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
saved = snapshot(2)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    save_checkpoint(Path({str(folder)!r}) / "checkpoint-2", saved)
except CheckpointError as error:
    print(error.message)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.startswith("Failed to save checkpoint: "), result.stderr
    assert [path.name for path in folder.iterdir()] == ["checkpoint-1"]
    assert json.loads((folder / "checkpoint-1" / "manifest.json").read_text())["step"] == 1


def test_a_checkpoint_is_replaced_as_a_whole(folder: Path) -> None:
    (folder / "checkpoint-1" / "stale.txt").write_text("")
    save_checkpoint(folder / "checkpoint-1", snapshot(5))
    assert not (folder / "checkpoint-1" / "stale.txt").exists()
    assert json.loads((folder / "checkpoint-1" / "trainer_state.json").read_text())["step"] == 5
    assert [path.name for path in folder.iterdir()] == ["checkpoint-1"]


def test_a_disk_without_room_is_known_before_a_byte_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded model and AdamW's two moments: 3 · 4 bytes for each of 867,328 parameters."""
    taken = snapshot(2)
    assert taken.size == pytest.approx(12 * 867_328, abs=17 << 20)
    usage = shutil.disk_usage(folder)._replace(free=taken.size - 1)
    monkeypatch.setattr("grpo_cli.engine.run_dir.checkpoint.shutil.disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"^Failed to save checkpoint: it needs 0.03 GB, and"):
        save_checkpoint(folder / "checkpoint-2", taken)
    assert [path.name for path in folder.iterdir()] == ["checkpoint-1"]
