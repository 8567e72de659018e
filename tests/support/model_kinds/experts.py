# ruff: noqa: E501
"""Mixtures of experts with full attention. Two of four experts read each token."""

from tests.support.model_kinds.base import EXPERTS, ROUTED, Fields

BAILING: Fields = {
    **EXPERTS,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
SPARSE_STEP: Fields = {**EXPERTS, "decoder_sparse_step": 1, "mlp_only_layers": []}
GRANITE: Fields = {
    "logits_scaling": 2.0, "attention_multiplier": 0.25, "embedding_multiplier": 2.0, "residual_multiplier": 0.5,
}  # fmt: skip

MIXTURES: dict[str, Fields] = {
    "Klear": {**SPARSE_STEP, "mlp_only_layers": [0], "n_shared_experts": 1},
    "bailing_moe": BAILING,
    "dbrx": {"d_model": 64, "n_layers": 2, "n_heads": 4,
             "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
             "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}},
    "deepseek": ROUTED,
    "dots1": {**ROUTED, "scoring_func": "noaux_tc"},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_layer_start_index": 1,
                     "moe_num_shared_experts": 1},
    "glm4_moe": {**ROUTED, "rope_scaling": None, "use_qk_norm": True, "partial_rotary_factor": 0.5},
    "granitemoe": {**EXPERTS, **GRANITE},
    "hunyuan": {**EXPERTS, "moe_topk": 2, "num_shared_expert": 1, "use_mixed_mlp_moe": True, "use_qk_norm": True,
                "use_cla": True, "cla_share_factor": 2, "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1.0}},
    "minimax": {**EXPERTS, "shared_intermediate_size": 32, "rotary_dim": 8, "use_qk_norm": True},
    "mixtral": EXPERTS,
    "olmoe": EXPERTS,
    "phimoe": EXPERTS,
    "phixtral": {"num_vocab": 300, "model_dim": 64, "num_heads": 4, "num_layers": 2, "rotary_dim": 8,
                 "num_experts_per_tok": 2, "num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_moe": SPARSE_STEP,
}  # fmt: skip
