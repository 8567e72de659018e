# ruff: noqa: E501
"""Parts of config.json that many kinds of model have in common: two layers of a few thousand numbers."""

from typing import Any

Fields = dict[str, Any]  # of config.json

V = 300  # tokens of the vocabulary
WINDOW = 8  # positions that a sliding window sees; the longest prompt has 11 tokens

BASE: Fields = {
    "vocab_size": V, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    "layer_norm_eps": 1e-5, "layer_norm_epsilon": 1e-5, "norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False,
    "bias": False, "use_bias": False, "qkv_bias": False, "use_qkv_bias": False, "qk_norm": False,
    "use_qk_norm": False, "post_norm": False,
}  # fmt: skip

SLIDING: Fields = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
PLAIN_ROPE: Fields = {"rope_type": "default", "rope_theta": 10000.0}
# YaRN (arXiv:2309.00071) over the 16 positions of the first training.
YARN: Fields = {
    "rope_type": "yarn", "type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip
ROPE_BY_LAYER: Fields = {
    "rope_parameters": {
        "sliding_attention": PLAIN_ROPE,
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    }
}

EXPERTS: Fields = {
    "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}  # fmt: skip
ROUTED: Fields = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "moe_layer_freq": 1, "norm_topk_prob": True,
    "routed_scaling_factor": 1.0, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip

# Keys and values through a narrow layer (DeepSeek-V2, arXiv:2405.04434, section 2.1).
LATENT: Fields = {
    "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
LATENT_QUERIES: Fields = {**LATENT, "q_lora_rank": 32}
INDEXER: Fields = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 4}  # the 4 keys that a query reads

# Layers with a state: a gated delta rule, and Mamba-2.
DELTA: Fields = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 32,
    "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4,
}  # fmt: skip
KIMI_DELTA: Fields = {
    "linear_attn_config": {"kda_layers": [1, 2, 3], "full_attn_layers": [4], "num_heads": 4, "head_dim": 16,
                           "short_conv_kernel_size": 4},
    "num_hidden_layers": 4,
}  # fmt: skip


def text_config(model_type: str, **fields: Any) -> Fields:
    """The fields of a model of pictures and text: the language model's stand in `text_config`."""
    return {"text_config": {**BASE, "model_type": model_type, **fields}}
