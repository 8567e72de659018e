# ruff: noqa: E501
"""Models of pictures and text, of which the language model is used, and packed weights."""

from tests.support.model_kinds.base import (
    LATENT_QUERIES,
    ROUTED,
    SLIDING,
    WINDOW,
    YARN,
    Fields,
    text_config,
)
from tests.support.model_kinds.experts import SPARSE_STEP
from tests.support.model_kinds.states import KIMI_3, LFM_2, QWEN, QWEN_ROPE
from tests.support.model_kinds.windows import GEMMA_3, GEMMA_4_SHARED

LLAMA_4: Fields = {
    "num_hidden_layers": 4, "intermediate_size_mlp": 128, "use_qk_norm": True, "attention_chunk_size": WINDOW,
    "interleave_moe_layer_step": 2, "num_local_experts": 4, "num_experts_per_tok": 1, "rope_scaling": None,
}  # fmt: skip
MINIMAX_3: Fields = {
    "dense_intermediate_size": 64, "shared_intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2,
    "moe_layer_freq": [0, 1], "sparse_attention_freq": [0, 1], "index_n_heads": 2, "index_head_dim": 16,
    "index_block_size": 2, "index_topk_blocks": 2, "num_key_value_heads": 2, "use_qk_norm": True,
}  # fmt: skip
# A layer of this kind of pack needs 128 columns.
HADAMARD: Fields = {
    **text_config("qwen3_5", **{**QWEN, **QWEN_ROPE, "hidden_size": 128}),
    "schema_version": 1, "tensor_namespace": "mlx-lm-text",
    "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
    "modules": [{"path": f"model.layers.{layer}.mlp.gate_proj", "block": 0, "embedding": False,
                 "dtype": "float16"} for layer in range(4)],
}  # fmt: skip

WRAPPED: dict[str, Fields] = {
    "gemma3": {**text_config("gemma3_text", **GEMMA_3)},
    "gemma4": {**text_config("gemma4_text", **GEMMA_4_SHARED)},
    "kimi_k25": text_config("kimi_k2", **LATENT_QUERIES, **ROUTED),
    "kimi_k3": text_config("kimi_linear", **KIMI_3),
    "kimi_vl": text_config("deepseek_v3", **LATENT_QUERIES, **ROUTED),
    "lfm2-vl": text_config("lfm2", **LFM_2),
    "llama4": text_config("llama4_text", **LLAMA_4),
    "minimax_m3_vl": text_config("minimax_m3", **MINIMAX_3),
    "mistral3": text_config("mistral"),
    "mistral3, mistral4": text_config("mistral4", **LATENT_QUERIES, **ROUTED, rope_parameters=YARN),
    "mistral3, ministral3": text_config("ministral3", **SLIDING, rope_parameters=YARN),
    "pixtral": text_config("mistral"),
    "prism_hadamard_qwen35": HADAMARD,
    "qwen2_vl": text_config("qwen2"),
    "qwen3_vl": text_config("qwen3"),
    "qwen3_vl_moe": text_config("qwen3_moe", **SPARSE_STEP, tie_word_embeddings=False),
}  # fmt: skip
