"""A nanochat of 32 layers, narrow enough for a test of seconds, with the embedded model's tokenizer."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
from mlx_lm.models import nanochat
from mlx_lm.utils import save_model

from grpo_cli.models.find import TINY

LAYERS = 32
VOCABULARY = 316  # of the embedded tokenizer


def deep_nanochat(folder: Path) -> str:
    """Write it, with random weights and a head sharp enough that its tokens differ in likelihood."""
    config = {
        "model_type": "nanochat",
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "intermediate_size": 64,
    }
    mx.random.seed(1)
    model = nanochat.Model(nanochat.ModelArgs.from_dict(config))
    model.lm_head.weight = model.lm_head.weight * 8
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.py", "__pycache__"))
    save_model(folder, model)
    embedded = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(embedded | config), encoding="utf-8")
    return str(folder)
