"""Fixtures of run folders: a folder with everything that a run is made of."""

import json
import shutil
from pathlib import Path

import pytest

from grpo_cli.models.find import TINY
from tests.support.one_step_runs import REWARD, ROWS


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, data and a reward, which is the current one."""
    shutil.copytree(TINY, tmp_path / "there/base [v1]")
    (tmp_path / "there/data").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"there/data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "there/r.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"
