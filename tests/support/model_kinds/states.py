# ruff: noqa: E501
"""Layers that keep a state or the last positions of a convolution, alone and between layers of attention."""

from tests.support.model_kinds.base import (
    DELTA,
    EXPERTS,
    KIMI_DELTA,
    LATENT,
    LATENT_QUERIES,
    PLAIN_ROPE,
    WINDOW,
    Fields,
)
from tests.support.model_kinds.experts import BAILING, GRANITE

QWEN_ROPE: Fields = {
    "rope_parameters": {
        **PLAIN_ROPE,
        "type": "default",
        "mrope_section": [2, 1, 1],
        "partial_rotary_factor": 0.5,
    }
}
QWEN: Fields = {**DELTA, "num_hidden_layers": 4, "full_attention_interval": 4}
GROUPS_OF_TWO: Fields = {"num_hidden_layers": 4, "layer_group_size": 2, "group_norm_size": 2}
CONVOLUTION: Fields = {
    "num_hidden_layers": 4, "conv_bias": False, "conv_L_cache": 3, "full_attn_idxs": [1, 3],
}  # fmt: skip
LFM_2: Fields = {
    **CONVOLUTION, "block_dim": 64, "block_ff_dim": 128, "block_multiple_of": 16, "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
}  # fmt: skip
KIMI: Fields = {
    **KIMI_DELTA, "num_experts": 4, "num_experts_per_token": 2, "num_shared_experts": 1, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "mla_use_nope": True,
}  # fmt: skip
KIMI_3: Fields = {
    **KIMI, **LATENT_QUERIES, "num_key_value_heads": 4, "mla_use_output_gate": True, "attn_res_block_size": 2,
    "activation_situ_beta": 1.0, "activation_situ_linear_beta": 1.0, "routed_expert_hidden_size": 32,
    "latent_moe_use_norm": True,
}  # fmt: skip
MAMBA_OF_GRANITE: Fields = {
    "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_proj_bias": False, "mamba_d_state": 16, "mamba_d_conv": 4,
    "mamba_n_groups": 2, "mamba_conv_bias": True, "num_hidden_layers": 3, "shared_intermediate_size": 64,
    "layer_types": ["mamba", "attention", "mamba"],
}  # fmt: skip
NEMOTRON: Fields = {
    "mamba_num_heads": 4, "mamba_head_dim": 32, "mamba_proj_bias": False, "ssm_state_size": 16, "conv_kernel": 4,
    "n_groups": 2, "use_conv_bias": True,
}  # fmt: skip

STATES: dict[str, Fields] = {
    "baichuan_m1": {"sliding_window": WINDOW, "sliding_window_layers": [0], "conv_window": 2,
                    "num_swa_attention_heads": 4, "num_swa_key_value_heads": 1, "tie_word_embeddings": False},
    "bailing_hybrid": {**BAILING, **LATENT_QUERIES, **GROUPS_OF_TWO, "routed_scaling_factor": 1.0,
                       "use_qk_norm": True},
    "bailing_moe_linear": {**BAILING, **GROUPS_OF_TWO},
    "bailing_moe_v3": {**BAILING, **LATENT_QUERIES, "num_hidden_layers": 4, "layer_group_size": 2,
                       "moe_shared_expert_intermediate_size": 32, "routed_scaling_factor": 1.0},
    "falcon_h1": {"mamba_chunk_size": 16, "mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_d_state": 16,
                  "mamba_n_heads": 4, "mamba_n_groups": 2, "mamba_rms_norm": True, "lm_head_multiplier": 1.0,
                  "key_multiplier": 1.0, "ssm_out_multiplier": 1.0, "ssm_multipliers": [1.0] * 5},
    "gear": {"num_hidden_layers": 3, "sliding_window": WINDOW,
             "layer_types": ["conv_mixer", "sliding_attention", "full_attention"]},
    "granitemoehybrid": {**EXPERTS, **GRANITE, **MAMBA_OF_GRANITE},
    "granitemoehybrid, dense": {**GRANITE, **MAMBA_OF_GRANITE, "position_embedding_type": "nope"},
    "jamba": {"num_hidden_layers": 4, "attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1,
              "expert_layer_period": 2, "mamba_d_conv": 4, "mamba_d_state": 8, "mamba_expand": 2, "num_experts": 4,
              "num_experts_per_tok": 2},
    "kimi_linear": {**KIMI, **LATENT, "model_max_length": 2048, "num_key_value_heads": 4},
    "lfm2": LFM_2,
    "lfm2_moe": {**CONVOLUTION, **EXPERTS, "use_expert_bias": True, "num_dense_layers": 1},
    "mamba": {"state_size": 8, "conv_kernel": 4, "use_conv_bias": True, "time_step_rank": 8},
    "mamba, as Falcon's": {"state_size": 8, "conv_kernel": 4, "use_conv_bias": True, "time_step_rank": 8,
                           "use_bcdt_rms": True},
    "mamba2": {"time_step_limit": [0.0, 1e9], "num_heads": 4, "head_dim": 32, "state_size": 16, "conv_kernel": 4,
               "n_groups": 1, "expand": 2, "time_step_rank": 8, "chunk_size": 16, "use_conv_bias": True},
    "nemotron_h": {**NEMOTRON, "hybrid_override_pattern": ["M", "-", "*", "M"]},
    "nemotron_h, experts": {**NEMOTRON, **EXPERTS, "hybrid_override_pattern": ["M", "E", "*", "M"],
                            "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
                            "moe_shared_expert_intermediate_size": 32, "routed_scaling_factor": 1.0},
    "olmo_hybrid": {**DELTA, "num_hidden_layers": 4, "linear_num_key_heads": 4, "linear_allow_neg_eigval": True},
    "plamo2": {"num_hidden_layers": 4, "hidden_size_per_head": 16, "mamba_d_state": 8, "mamba_num_heads": 4,
               "mamba_step": 2, "attention_window_size": WINDOW},
    "qwen3_5": {**QWEN, **QWEN_ROPE},
    "qwen3_5_moe": {**QWEN, **QWEN_ROPE, **EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_next": {**QWEN, **EXPERTS, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1,
                   "mlp_only_layers": [], "partial_rotary_factor": 0.5},
    "recurrent_gemma": {"num_hidden_layers": 3, "conv1d_width": 4, "logits_soft_cap": 30.0,
                        "attention_window_size": WINDOW, "block_types": ["recurrent", "recurrent", "attention"]},
    "rwkv7": {"head_dim": 32, "a_low_rank_dim": 8, "v_low_rank_dim": 8, "gate_low_rank_dim": 8,
              "decay_low_rank_dim": 8},
}  # fmt: skip
