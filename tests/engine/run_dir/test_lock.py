"""One process on a run's folder at a time, and a dead one's lock is no lock."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_cli.engine.run_dir.lock import LOCK_FILE, RunLock
from grpo_cli.errors import CheckpointError

HOLD = """
import sys, time
from pathlib import Path
from grpo_cli.engine.run_dir.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def holder(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_process_is_refused_with_the_firsts_id(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(CheckpointError) as error, RunLock(tmp_path):
        pass
    assert error.value.message == f"The run in {tmp_path} is in use by the process {holder.pid}"
    assert f"`kill {holder.pid}`" in error.value.hint
    assert (tmp_path / LOCK_FILE).read_text() == f"{holder.pid}\n"  # the first one's is untouched


def test_a_lock_that_a_killed_process_left_is_taken_over(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with RunLock(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_was_deleted_is_not_held_twice(tmp_path: Path) -> None:
    """A process that opened the file before its owner deleted it must not think that it holds the folder."""
    stale = RunLock(tmp_path)
    file = stale._locked()
    (tmp_path / LOCK_FILE).unlink()
    assert not stale._is_current(file)
    with RunLock(tmp_path):  # others see a free folder
        assert not stale._is_current(file)
    file.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match=r"^Failed to save checkpoint: Not a directory"),
        RunLock(tmp_path / "file"),
    ):
        pass
