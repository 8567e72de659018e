"""A finished run of four steps, and the notices of its resume."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.resume import resume
from grpo_cli.engine.train import train
from tests.support.small_runs import SHORT, small


def finished(tmp_path: Path) -> Config:
    """A run of four steps with a checkpoint at each, as it was copied here."""
    config = four_steps(tmp_path)
    shutil.copytree(made_once().run_dir, config.run_dir)
    return config


def four_steps(folder: Path) -> Config:
    return small(folder, **{**SHORT, "max_steps": 4, "save_steps": 1, "keep_checkpoints": 4})


@cache
def made_once() -> Config:
    """The run that is copied."""
    config = four_steps(Path(tempfile.mkdtemp()))
    train(config)
    return config


def notices(path: Path, *overrides: str) -> tuple[list[str], Path]:
    seen: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Notice):
            seen.append(event.text)

    return seen, resume(path, overrides, listen)
