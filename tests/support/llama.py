"""A small llama in transformers' format, with nanochat's vocabulary as its tokenizer.json."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import llama

from grpo_cli.models.find import TINY
from grpo_cli.models.nanochat_fast import hf_tokenizer, hf_tokenizer_config
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tree import flat

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 316,
    "eos_token_id": 311,
    "torch_dtype": "float32",
}


def write_llama(folder: Path) -> Path:
    """Write it into a new folder."""
    mx.random.seed(0)
    return write_model(folder, llama.Model(llama.ModelArgs.from_dict(CONFIG)), CONFIG)


def write_model(folder: Path, model: nn.Module, config: dict[str, Any]) -> Path:
    """Write a model of any kind, with the same tokenizer, into a new folder."""
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), flat(model.parameters()))
    (folder / "config.json").write_text(json.dumps(config))
    hf_tokenizer(NanochatTokenizer.load(TINY).encoding).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(hf_tokenizer_config()))
    return folder
