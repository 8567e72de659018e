"""machines.jsonl: what a run was made with, each time that it was started."""

from pathlib import Path

import pytest

from grpo_cli import device
from grpo_cli.engine.ranks.same_setup import version
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.machines import MACHINES, read_machines, record_machine, this_machine
from grpo_cli.engine.train import train
from tests.support.small_runs import SHORT, small


def test_each_start_of_a_run_is_recorded(tmp_path: Path) -> None:
    config = small(tmp_path, **{**SHORT, "max_steps": 2, "save_steps": 1})
    train(config)
    resume(config.run_dir, ["max_steps=3"])
    first, second = read_machines(config.run_dir)
    assert (first.step, second.step, first.ranks) == (0, 2, 1)
    assert first.device == device.prepare().name
    assert first.memory_gb == pytest.approx((device.prepare().memory_bytes or 0) / 1e9, abs=0.05)
    assert first.versions["mlx-lm"] == version("mlx-lm")
    assert first.time <= second.time


def test_damaged_lines_and_other_files_are_skipped(tmp_path: Path) -> None:
    start = this_machine(step=3, device="M3", memory_bytes=None, ranks=2, versions={"mlx": "1"})
    record_machine(tmp_path, start)
    with (tmp_path / MACHINES).open("a") as file:
        file.write('{"time": 1}\n[[[\n{"time": "t", "step": "x", "device": "d"}\n')
    assert read_machines(tmp_path) == [start]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MACHINES).symlink_to(tmp_path / "none")
    record_machine(tmp_path / "other", start)  # a link is not followed
    assert not (tmp_path / "none").exists() and read_machines(tmp_path / "other") == []
