"""Small random models of several architectures."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gemma2, llama, nanochat, qwen2

from grpo_cli.models import nanochat_v2

COMMON = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "num_attention_heads": 2,
          "num_key_value_heads": 2, "vocab_size": 48, "rms_norm_eps": 1e-5}  # fmt: skip


def llama_of(tied: bool, **more: Any) -> nn.Module:
    return llama.Model(llama.ModelArgs(model_type="llama", tie_word_embeddings=tied, **COMMON, **more))


def nanochat_v2_model(kind: type[nanochat_v2.Model] = nanochat_v2.Model) -> nn.Module:
    """With rows that stand for no token, and scalars that are not neutral."""
    model = kind(
        nanochat_v2.ModelArgs(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=64, vocab_size=48, padded_vocab_size=64,
        )
    )  # fmt: skip
    model.smear_lambda, model.backout_lambda, model.x0_lambdas = mx.ones(1), mx.full(1, 0.2), mx.full(2, 0.3)
    return model


MODELS = {
    "llama": lambda: llama_of(False),
    "llama, tied": lambda: llama_of(True),
    "llama, sliding": lambda: llama_of(
        True, layer_types=["sliding_attention", "full_attention"], sliding_window=3
    ),
    "qwen2": lambda: qwen2.Model(qwen2.ModelArgs(model_type="qwen2", **COMMON)),
    "gemma2": lambda: gemma2.Model(
        gemma2.ModelArgs(model_type="gemma2", head_dim=8, query_pre_attn_scalar=8.0, **COMMON)
    ),
    "nanochat": lambda: nanochat.Model(
        nanochat.ModelArgs(model_type="nanochat", **{k: v for k, v in COMMON.items() if k != "rms_norm_eps"})
    ),
    "nanochat_v2": nanochat_v2_model,
}


def model_of(kind: str) -> nn.Module:
    mx.random.seed(3)
    model = MODELS[kind]()
    mx.eval(model.parameters())
    return model
