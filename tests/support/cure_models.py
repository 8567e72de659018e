"""Folders of small models and adapters for the scenarios."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from grpo_cli.models.load import load_policy
from tests.support.llama import write_llama

WEIGHTS = "model.safetensors"


def llama(name: str = "m") -> Path:
    """A sound model's folder; the same each time, so that its files can be copied again."""
    return write_llama(Path(name))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def tensors(path: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(path))
    mx.eval(found)
    return dict(found)


def adapters(name: str = "a", base: str = "tiny", layers: int = 0) -> Path:
    """A folder of adapters on a model."""
    policy = load_policy(base)
    lora = LoRA(rank=2, layers=layers)
    add_adapters(policy.model, lora)
    Path(name).mkdir()
    save_adapters(policy.model, lora, base, Path(name))
    return Path(name)
