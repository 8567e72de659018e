# ruff: noqa: E501
"""Layers that see the last positions only, mixed with layers that see all; models since Gemma 3."""

from tests.support.model_kinds.base import (
    BASE,
    EXPERTS,
    ROPE_BY_LAYER,
    ROUTED,
    SLIDING,
    WINDOW,
    YARN,
    Fields,
    V,
)

LOOPED: Fields = {"loop_num": 2, "loop_window_size": WINDOW}
GEMMA_4: Fields = {
    "num_hidden_layers": 4, "global_head_dim": 32, "vocab_size_per_layer_input": V, "sliding_window": WINDOW,
    "sliding_window_pattern": 2,
}  # fmt: skip
GEMMA_3N: Fields = {
    **BASE, "model_type": "gemma3n_text", "num_hidden_layers": 4, "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": V, "sliding_window": WINDOW, "rope_local_base_freq": 1e4,
    "final_logit_softcapping": 30.0, "layer_types": ["sliding_attention", "full_attention"] * 2,
    "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "hidden_size_per_layer_input": 16,
    "altup_num_inputs": 2, "altup_coef_clip": 120.0, "altup_correct_scale": True, "altup_active_idx": 0,
    "laurel_rank": 8,
}  # fmt: skip
GEMMA_3: Fields = {
    "num_hidden_layers": 4, "sliding_window": WINDOW, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16,
}  # fmt: skip
GEMMA_4_SHARED: Fields = {
    **GEMMA_4, "num_kv_shared_layers": 2, "num_key_value_heads": 1, "hidden_size_per_layer_input": 16,
}  # fmt: skip
MUSE_SPARK: Fields = {
    **SLIDING, "post_norm_eps": 1e-8, "rope_parameters": {"rope_theta": 10000.0}, "layer_rope_theta": [10000.0, 0],
    "final_logit_softcapping": 20.0, "output_multiplier": 0.2, "num_local_experts": 4, "num_experts_per_tok": 2,
    "moe_hidden_size": 32, "moe_intermediate_size": 32,
}  # fmt: skip

WINDOWS: dict[str, Fields] = {
    "afmoe": {**SLIDING, **EXPERTS},
    "cohere2": {"logit_scale": 0.5, "num_hidden_layers": 4, "sliding_window": WINDOW,
                "sliding_window_pattern": 2},
    "exaone4": {"rope_scaling": None, "sliding_window": WINDOW, "sliding_window_pattern": "LG"},
    "exaone_moe": {**SLIDING, **EXPERTS, "num_shared_experts": 1, "is_moe_layer": [False, True]},
    "gemma3_text": GEMMA_3,
    "gemma3n": {"text_config": GEMMA_3N},
    "gemma4_text": GEMMA_4_SHARED,
    "gemma4_text, nothing shared": {**GEMMA_4, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0},
    "gpt_oss": {**SLIDING, **EXPERTS},
    "iquestloopcoder": LOOPED,
    "laguna": {**SLIDING, **EXPERTS, **ROPE_BY_LAYER, "shared_expert_intermediate_size": 32,
               "num_attention_heads_per_layer": [4, 2]},
    "llama, sliding": SLIDING,
    "llama4_text": {"intermediate_size_mlp": 128, "no_rope_layers": [1, 0], "use_qk_norm": True,
                    "attention_chunk_size": WINDOW, "interleave_moe_layer_step": 1, "num_local_experts": 2,
                    "num_experts_per_tok": 1},
    "mellum": {**SLIDING, **EXPERTS, **ROPE_BY_LAYER},
    "mimo_v2_flash": {**ROUTED, "hybrid_layer_pattern": [1, 0], "moe_layer_freq": [0, 1],
                      "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False,
                      "sliding_window_size": WINDOW, "layernorm_epsilon": 1e-5, "swa_rope_theta": 10000.0,
                      "swa_num_attention_heads": 4, "swa_num_key_value_heads": 1, "v_head_dim": 8,
                      "swa_head_dim": 16, "swa_v_head_dim": 8, "partial_rotary_factor": 0.5},
    "ministral3": {**SLIDING, "rope_parameters": YARN},
    "muse_glimmer": SLIDING,
    "muse_spark": {"text_config": {**BASE, "model_type": "muse_spark_text", **MUSE_SPARK}},
    "olmo3": SLIDING,
    "plamo3": {"num_hidden_layers": 4, "sliding_window": WINDOW, "sliding_window_pattern": 2},
    "spark2_5": {**SLIDING, **ROPE_BY_LAYER},
    "step3p5": {**SLIDING, "num_attention_groups": 2, "moe_num_experts": 4, "moe_top_k": 2,
                "moe_intermediate_size": 32, "share_expert_dim": 32, "partial_rotary_factors": [1.0, 0.5],
                "attention_other_setting": {"num_attention_heads": 8, "num_attention_groups": 2}},
}  # fmt: skip
