"""A checkpoint is whole or not there; a disk that refuses it is named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.checkpoint import remove_old_checkpoints, save_checkpoint
from grpo_cli.engine.optimizer import Optimizer
from grpo_cli.errors import CheckpointError
from grpo_cli.models.load import Policy, load_policy


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Policy, Optimizer]:
    """A run's folder with one checkpoint in it."""
    policy = load_policy("tiny")
    optimizer = Optimizer(Config(), policy.model)
    save_checkpoint(tmp_path / "checkpoint-1", policy, optimizer, {"step": 1})
    return tmp_path, policy, optimizer


def test_a_folder_that_cannot_be_written_is_named_and_leaves_nothing(
    saved: tuple[Path, Policy, Optimizer],
) -> None:
    folder, policy, optimizer = saved
    (folder / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"^Failed to save checkpoint: .*Not a directory") as error:
        save_checkpoint(folder / "file" / "checkpoint-2", policy, optimizer, {"step": 2})
    assert "check the permissions" in error.value.hint
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-1", "file"]


def test_a_disk_that_is_full_leaves_the_last_checkpoint_and_no_part_of_the_new_one(
    saved: tuple[Path, Policy, Optimizer],
) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the middle."""
    folder, _, _ = saved
    limit = 1_000_000
    script = f"""
import resource, signal
from pathlib import Path
from grpo_cli import device
device.prepare()
from grpo_cli.config.schema import Config
from grpo_cli.engine.optimizer import Optimizer
from grpo_cli.engine.checkpoint import save_checkpoint
from grpo_cli.errors import CheckpointError
from grpo_cli.models.load import load_policy
policy = load_policy("tiny")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    optimizer = Optimizer(Config(), policy.model)
    save_checkpoint(Path({str(folder)!r}) / "checkpoint-2", policy, optimizer, {{"step": 2}})
except CheckpointError as error:
    print(error.message)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.startswith("Failed to save checkpoint: "), result.stderr
    assert [path.name for path in folder.iterdir()] == ["checkpoint-1"]
    assert json.loads((folder / "checkpoint-1" / "manifest.json").read_text())["step"] == 1


def test_a_checkpoint_is_replaced_as_a_whole(saved: tuple[Path, Policy, Optimizer]) -> None:
    folder, policy, optimizer = saved
    (folder / "checkpoint-1" / "stale.txt").write_text("")
    save_checkpoint(folder / "checkpoint-1", policy, optimizer, {"step": 5})
    assert not (folder / "checkpoint-1" / "stale.txt").exists()
    assert json.loads((folder / "checkpoint-1" / "trainer_state.json").read_text()) == {"step": 5}


def test_only_the_newest_are_kept_by_number_not_by_name(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11", "checkpoint-mine", "final"):
        (tmp_path / name).mkdir()
    remove_old_checkpoints(tmp_path, keep=2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["checkpoint-10", "checkpoint-11", "checkpoint-mine", "final"]
