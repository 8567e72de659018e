"""Stale files that killed processes leave in folders."""

import os
from pathlib import Path

import pytest

from grpo_cli.doctor.read.stale_files import found_in, is_locked, measured


def test_measuring_ends(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(10))
    assert measured(tmp_path, seconds=-1) == (0, False)


def test_a_pipe_with_our_name_blocks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs").mkdir()
    os.mkfifo("outputs/.x.grpo-tmp")
    Path("run.lock").mkdir()
    assert [found.path.name for found in found_in([Path("outputs"), Path("missing")])] == [".x.grpo-tmp"]
    assert not is_locked(Path("outputs/.x.grpo-tmp"))
