"""A run that ends by an error saves its last step: a disk gone read-only, an update that failed half way."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.engine import events
from grpo_cli.engine.recovery import Restart
from grpo_cli.engine.run_dir.manifest import checkpoints
from grpo_cli.engine.train import train
from grpo_cli.engine.update import optimizer
from grpo_cli.errors import CheckpointError
from tests.support.finished_runs import notices
from tests.support.small_runs import SHORT, log_without_times, small


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that makes all writes below `tmp_path` fail, as on a disk gone read-only."""

    def refuse(name: str) -> None:
        real = getattr(os, name)

        def call(path: Any, *arguments: Any, **named: Any) -> Any:
            is_open = isinstance(path, int)
            shown = Path(f"/proc/self/fd/{path}").readlink() if is_open else os.fspath(path)
            reads = name == "open" and not arguments[0] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
            if str(shown).startswith(str(tmp_path)) and not reads:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(shown))
            return real(path, *arguments, **named)

        monkeypatch.setattr(os, name, call)

    def turn() -> None:
        for name in ("open", "write", "mkdir", "unlink", "rename", "replace", "rmdir"):
            refuse(name)

    return turn


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc here")
def test_a_disk_that_turns_read_only_in_the_middle_says_so(
    tmp_path: Path, read_only: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step == 1:
            read_only()
        if isinstance(event, events.Notice):
            said.append(event.text)

    config = small(tmp_path, **{**SHORT, "save_steps": 1})
    whole = small(tmp_path, run_name="whole", **SHORT)
    train(whole)
    with pytest.raises(
        CheckpointError, match=r"^Failed to save checkpoint: .*Read-only file system.*3 times"
    ):
        train(config, listen)
    assert any(f"the log cannot be written: Read-only file system: {config.run_dir}" in text for text in said)
    monkeypatch.undo()  # the disk is mended
    assert checkpoints(config.run_dir) == []  # the step before it was not due to be saved
    notices(config.run_dir)
    assert log_without_times(config.run_dir) == log_without_times(whole.run_dir)


def test_an_update_that_failed_half_way_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer runs out of memory in the third step: its weights belong to no step."""
    config, updates = small(tmp_path, **SHORT), 0

    class Failing:
        """mlx, whose third evaluation in the optimizer fails."""

        def __getattr__(self, name: str) -> object:
            return getattr(mx, name)

        def eval(self, *arrays: object) -> None:
            nonlocal updates
            updates += 1
            if updates == 3:
                raise RuntimeError("[cuda] out of memory")
            mx.eval(*arrays)

    monkeypatch.setattr(optimizer, "mx", Failing())
    with pytest.raises(Restart, match="out of memory"):
        train(config)
    assert not list(config.run_dir.glob("checkpoint-*"))
