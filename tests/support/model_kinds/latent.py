# ruff: noqa: E501
"""Keys and values in a narrow form (latent attention), and attention to chosen keys only."""

from tests.support.model_kinds.base import (
    EXPERTS,
    INDEXER,
    LATENT,
    LATENT_QUERIES,
    PLAIN_ROPE,
    ROUTED,
    YARN,
    Fields,
)

LONG_ROPE: Fields = {
    "original_max_position_embeddings": 2048, "short_factor": [1.0] * 4, "long_factor": [1.5] * 4,
}  # fmt: skip
LONGCAT: Fields = {
    **LATENT_QUERIES, "num_layers": 2, "ffn_hidden_size": 64, "moe_topk": 2, "expert_ffn_hidden_size": 32,
    "n_routed_experts": 4, "zero_expert_num": 2, "zero_expert_type": "identity", "attention_method": "MLA",
    "routed_scaling_factor": 1.0, "mla_scale_q_lora": True, "mla_scale_kv_lora": True,
}  # fmt: skip

LATENTS: dict[str, Fields] = {
    "deepseek_v2": {**LATENT_QUERIES, **ROUTED, "topk_method": "greedy", "rope_scaling": YARN},
    "deepseek_v3": {**LATENT, **ROUTED},
    "deepseek_v3, experts in groups": {**LATENT_QUERIES, **ROUTED, "n_group": 2, "topk_group": 1},
    "deepseek_v32": {**LATENT_QUERIES, **ROUTED, **INDEXER},
    "deepseek_v41": {**EXPERTS, "num_hidden_layers": 4, "q_lora_rank": 32, "qk_rope_head_dim": 8, "o_groups": 2,
                     "o_lora_rank": 16, "n_routed_experts": 4, "sliding_window": 8, "compress_ratios": [0, 2, 2, 2],
                     "kv_source_layer_ids": [1], "index_source_layer_ids": [1, 3], "candidate_source_layer_id": 1,
                     "candidate_topk_blocks": 2, "candidate_block_size": 2, **INDEXER, "hc_mult": 2},
    "glm4_moe_lite": {**LATENT_QUERIES, **ROUTED},
    "glm_moe_dsa": {**LATENT_QUERIES, **ROUTED, **INDEXER, "rope_parameters": PLAIN_ROPE},
    "longcat_flash": LONGCAT,
    "longcat_flash_ngram": {**LONGCAT, "ngram_vocab_size_ratio": 2, "emb_neighbor_num": 3, "emb_split_num": 2},
    "minicpm3": {**LATENT_QUERIES, "dim_model_base": 64, "scale_depth": 1.4, "scale_emb": 2.0,
                 "rope_scaling": LONG_ROPE},
    "mistral4": {**LATENT_QUERIES, **ROUTED, "rope_parameters": YARN},
    "youtu_llm": LATENT_QUERIES,
}  # fmt: skip
