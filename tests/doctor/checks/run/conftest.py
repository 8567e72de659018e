"""Real short runs, for tests that look at or damage their checkpoints."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.train import train

SMALL: dict[str, Any] = {
    "model_name": "tiny",
    "dataset": "arithmetic",
    "max_train_samples": 8,
    "num_generations": 2,
    "max_new_tokens": 4,
    "eval_steps": 0,
    "save_steps": 1,
    "keep_checkpoints": 5,
    "max_steps": 2,
    "reward_functions": ["correctness"],
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two steps: `full`, `half` (bfloat16, with masters) and `lora`."""
    folder = tmp_path_factory.mktemp("runs")
    for name, changes in {"full": {}, "half": {"dtype": "bfloat16"}, "lora": {"lora_rank": 2}}.items():
        train(Config(**SMALL, **changes, output_dir=str(folder), run_name=name))  # type: ignore[arg-type]
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "full", tmp_path / "run"))
