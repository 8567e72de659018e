"""Fixtures of the engine: a run before its first step, and a finished one."""

from pathlib import Path

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import setup
from grpo_cli.engine.run import Run
from tests.support.finished_runs import finished
from tests.support.small_runs import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the embedded model before its first step, in float32."""
    return setup.prepare(small(tmp_path_factory.mktemp("run"), dtype="float32"))


@pytest.fixture
def done(tmp_path: Path) -> Config:
    """A finished run of four steps with a checkpoint at each."""
    return finished(tmp_path)
