"""Folders of adapters as PEFT writes them, made by hand, and the weights that they give their base."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.models.peft_config import PEFT_WEIGHTS
from tests.support.llama import CONFIG, write_llama

HIDDEN, INNER = int(CONFIG["hidden_size"]), int(CONFIG["intermediate_size"])  # type: ignore[call-overload]
SHAPES = {
    "q_proj": (HIDDEN, HIDDEN),
    "v_proj": (HIDDEN // 2, HIDDEN),
    "up_proj": (INNER, HIDDEN),
}  # (out, in)


def path_of(layer: int, name: str) -> str:
    """The path of a linear layer of the small llama, in transformers and in mlx-lm."""
    return f"model.layers.{layer}.{'mlp' if name == 'up_proj' else 'self_attn'}.{name}"


def llama(folder: Path, tied: bool = True) -> Path:
    """The small llama, with or without an output layer of its own."""
    write_llama(folder)
    if not tied:
        weights: Any = mx.load(str(folder / "model.safetensors"))
        head = 0.1 * mx.random.normal((CONFIG["vocab_size"], HIDDEN), key=mx.random.key(5))
        mx.save_safetensors(str(folder / "model.safetensors"), {**weights, "lm_head.weight": head})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return folder


def peft_tensors(ranks: dict[str, int]) -> dict[str, mx.array]:
    """Random lora_A (r, in) and lora_B (out, r) under PEFT's names, by the path of their linear layer."""
    found = {}
    for number, (path, rank) in enumerate(ranks.items()):
        out, inner = SHAPES[path.rpartition(".")[2]]
        keys = mx.random.split(mx.random.key(number))
        found[f"base_model.model.{path}.lora_A.weight"] = 0.3 * mx.random.normal((rank, inner), key=keys[0])
        found[f"base_model.model.{path}.lora_B.weight"] = 0.3 * mx.random.normal((out, rank), key=keys[1])
    return found


def write_peft(folder: Path, tensors: dict[str, mx.array], base: Path, **settings: Any) -> Path:
    """A folder with these tensors and settings."""
    folder.mkdir()
    mx.save_safetensors(str(folder / PEFT_WEIGHTS), tensors)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 4, "lora_alpha": 12}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return folder
