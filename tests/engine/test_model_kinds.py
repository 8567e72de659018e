"""Whole runs of models whose layers keep a state, or share a prompt by a window's mask."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine.train import train
from grpo_cli.models.load import load_policy
from tests.support.kind_trials import make
from tests.support.llama import write_model
from tests.support.model_kinds import WINDOW, config_of
from tests.support.resumed_runs import check_resumed
from tests.support.small_runs import SHORT, lines, small

ENTRIES = {"vocab_size": 320, "eos_token_id": 311, "torch_dtype": "float32"}
KINDS = ["qwen3_5", "mamba2", "gemma3_text"]
HYBRIDS = ("lfm2", "nemotron_h", "granitemoehybrid")  # convolutions or states beside attention


def folder_of(kind: str, folder: Path) -> str:
    """A model of this kind with the tokenizer of the embedded model."""
    return str(write_model(folder, make(kind, **ENTRIES), config_of(kind, **ENTRIES)))


@pytest.mark.parametrize(
    ("kind", "variant"), [*((kind, "full") for kind in (*KINDS, *HYBRIDS)), ("qwen3_5", "dora and kl")]
)
def test_interrupted_and_resumed_is_uninterrupted(kind: str, variant: str, tmp_path: Path) -> None:
    check_resumed(variant, tmp_path, model_name=folder_of(kind, tmp_path / "model"))


def test_prompts_are_longer_than_the_windows() -> None:
    """So the runs of gemma3_text train beyond its window."""
    tokenizer = load_policy("tiny").tokenizer
    asked = [{"role": "user", "content": "What is 1 + 2?"}]
    assert len(tokenizer.encode_prompt(asked)) > WINDOW
    assert config_of("gemma3_text")["sliding_window"] == WINDOW


@pytest.mark.parametrize(
    ("kind", "rank"), [("qwen3_5", 0), ("qwen3_5", 4), ("mamba2", 4), ("gemma3_text", 0)]
)
def test_sampler_and_loss_agree_in_every_step(kind: str, rank: int, tmp_path: Path) -> None:
    """Prompts of unlike length, their cache shared, rows that leave and enter the batch."""
    model = {"model_name": folder_of(kind, tmp_path / "model"), "lora_rank": rank}
    settings: dict[str, Any] = {**SHORT, "max_steps": 3, "max_new_tokens": 24, "learning_rate": 1e-3, **model}
    run = small(tmp_path, **settings)
    train(run)
    found = [line for line in lines(run.run_dir) if line.get("grad_norm")]
    assert len(found) > 2
    assert max(line["ratio_deviation"] for line in found) < 1e-5
