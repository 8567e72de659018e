# ruff: noqa: E501
"""Every kind of model that mlx-lm can make small: which way of sampling and training is right for it?

    python -m tests.bench.architectures            # all, as the table of RESULTS.md
    python -m tests.bench.architectures gemma2 afm7

Each is made with random weights and a few hundred numbers a layer, and then gets what a run does with it: the
probe, sampling of prompts of unlike length, and one update, whose logprobs are compared with the sampler's and
whose gradient with that of single rows. A kind is `ok` where both agree, `refused` where the probe says so.
"""

import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from grpo_cli import device
from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.chunked_logits import find_head
from grpo_cli.engine.update.forward_probe import check_kind, training_plan
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.errors import ModelError
from grpo_cli.models.batch_plan import BatchPlan
from grpo_cli.models.load import Policy
from tests.support.random_models import ByteTokenizer, group
from tests.support.steps import objective_of

V = 300
BASE = {
    "vocab_size": V, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    "layer_norm_eps": 1e-5, "layer_norm_epsilon": 1e-5, "norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False,
    "bias": False, "use_bias": False, "qkv_bias": False, "use_qkv_bias": False, "qk_norm": False,
    "use_qk_norm": False, "post_norm": False,
}  # fmt: skip
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
           "norm_topk_prob": True}  # fmt: skip
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32,
          "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "moe_layer_freq": 1, "norm_topk_prob": True,
          "routed_scaling_factor": 1.0, "scoring_func": "sigmoid", "topk_method": "noaux_tc"}  # fmt: skip
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
GEMMA = {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
GEMMA4 = {"num_hidden_layers": 4, "global_head_dim": 32, "vocab_size_per_layer_input": V, "sliding_window": 8,
          "sliding_window_pattern": 2}  # fmt: skip
STATE = {"num_hidden_layers": 4, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 32,
         "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4, "full_attention_interval": 4}  # fmt: skip

# name → mlx-lm's module and what its config.json has beyond BASE
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "afm7": ("afm7", {"hidden_dim": 64, "num_layers": 3, "num_kv_reuse_layers": 1, "num_heads": 4, "num_kv_heads": 2}),
    "afmoe": ("afmoe", {**SLIDING, **EXPERTS}),
    "apertus": ("apertus", {}),
    "cohere": ("cohere", {"logit_scale": 1.0, "use_qk_norm": False}),
    "cohere2": ("cohere2", {"logit_scale": 0.5, "num_hidden_layers": 4, "sliding_window": 8,
                            "sliding_window_pattern": 2}),
    "deepseek_v3": ("deepseek_v3", {**LATENT, **ROUTED}),
    "ernie4_5": ("ernie4_5", {}),
    "exaone4": ("exaone4", {"rope_scaling": None, "sliding_window": 8, "sliding_window_pattern": "LG"}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", GEMMA),
    "gemma2, as many keys as queries": ("gemma2", {**GEMMA, "num_key_value_heads": 4}),
    "gemma3": ("gemma3_text", {"num_hidden_layers": 4, "sliding_window": 8, "sliding_window_pattern": 2,
                               "query_pre_attn_scalar": 16}),
    "gemma3n": ("gemma3n", {"text_config": {
        **BASE, "model_type": "gemma3n_text", "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": V, "sliding_window": 8, "rope_local_base_freq": 1e4,
        "final_logit_softcapping": 30.0, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "hidden_size_per_layer_input": 16,
        "altup_num_inputs": 2, "altup_coef_clip": 120.0, "altup_correct_scale": True, "altup_active_idx": 0,
        "laurel_rank": 8}}),
    "gemma4": ("gemma4_text", {**GEMMA4, "num_kv_shared_layers": 2, "num_key_value_heads": 1,
                               "hidden_size_per_layer_input": 16}),
    "gemma4, nothing shared": ("gemma4_text", {**GEMMA4, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0}),
    "glm": ("glm", {}),
    "glm4": ("glm4", {"attention_bias": False, "partial_rotary_factor": 0.5}),
    "gpt2": ("gpt2", {"n_ctx": 256, "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 256}),
    "gpt_bigcode": ("gpt_bigcode", {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 256,
                                    "n_inner": 128}),
    "gpt_neox": ("gpt_neox", {"rotary_emb_base": 10000, "rotary_pct": 0.25, "use_parallel_residual": True}),
    "gpt_oss": ("gpt_oss", {**SLIDING, **EXPERTS}),
    "granite": ("granite", {"logits_scaling": 2.0, "attention_multiplier": 0.25, "embedding_multiplier": 2.0,
                            "residual_multiplier": 0.5, "attention_bias": False, "mlp_bias": False}),
    "helium": ("helium", {}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {}),
    "internlm2": ("internlm2", {}),
    "internlm3": ("internlm3", {}),
    "llama": ("llama", {}),
    "llama, untied": ("llama", {"tie_word_embeddings": False}),
    "llama, sliding": ("llama", SLIDING),
    "llama4": ("llama4_text", {"intermediate_size_mlp": 128, "no_rope_layers": [1, 0], "use_qk_norm": True,
                               "attention_chunk_size": 8, "interleave_moe_layer_step": 1, "num_local_experts": 2,
                               "num_experts_per_tok": 1, "attention_bias": False}),
    "mamba2": ("mamba2", {"time_step_limit": [0.0, 1e9], "num_heads": 4, "state_size": 16, "conv_kernel": 4,
                          "n_groups": 1, "expand": 2, "time_step_rank": 8, "chunk_size": 16, "use_conv_bias": True,
                          "use_bias": False}),
    "mimo": ("mimo", {}),
    "minicpm": ("minicpm", {"scale_emb": 1.0, "scale_depth": 1.0, "dim_model_base": 64}),
    "ministral3": ("ministral3", {**SLIDING, "rope_parameters": {
        "rope_type": "yarn", "type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    "mixtral": ("mixtral", EXPERTS),
    "nanochat": ("nanochat", {}),
    "nemotron": ("nemotron", {"norm_eps": 1e-5, "partial_rotary_factor": 0.5, "hidden_act": "relu2"}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", SLIDING),
    "olmoe": ("olmoe", EXPERTS),
    "phi": ("phi", {"partial_rotary_factor": 0.5}),
    "phi3": ("phi3", {}),
    "phi3small": ("phi3small", {"dense_attention_every_n_layers": 2, "ff_intermediate_size": 128,
                                "gegelu_limit": 20.0}),
    "phimoe": ("phimoe", EXPERTS),
    "qwen2": ("qwen2", {}),
    "qwen2_moe": ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen2_vl": ("qwen2_vl", {"text_config": {**BASE, "model_type": "qwen2"}}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": ("qwen3_moe", {**EXPERTS, "decoder_sparse_step": 1, "mlp_only_layers": []}),
    "qwen3_5": ("qwen3_5", {**STATE, "rope_parameters": {**PLAIN_ROPE, "type": "default",
                                                         "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}}),
    "seed_oss": ("seed_oss", {}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "stablelm": ("stablelm", {"partial_rotary_factor": 0.5, "use_qkv_bias": False}),
    "starcoder2": ("starcoder2", {"norm_epsilon": 1e-5}),
}  # fmt: skip
PROMPTS = [[5, 9, 17, 33, 12, 44, 7, 21, 30, 3, 14], [8, 2, 19], [4, 200, 6]]
NEW_TOKENS = 6


class Endless(ByteTokenizer):
    """A tokenizer without an end token."""

    eos_ids = frozenset()


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    """The config.json of a kind."""
    kind, fields = KINDS[name]
    return {**BASE, "model_type": kind, **fields, **changes}


def make(name: str, **changes: Any) -> nn.Module:
    """A small random model of a kind, in float32. `changes`: other values of its config.json."""
    config = config_of(name, **changes)
    module = import_module(f"mlx_lm.models.{config['model_type']}")
    mx.random.seed(0)
    model: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def planned(model: nn.Module) -> BatchPlan:
    """As a run decides it. Raises ModelError where it refuses."""
    check_kind(model)
    return training_plan(model, True, find_head(model))


def deviation(model: nn.Module, plan: BatchPlan) -> float:
    """Sample completions of prompts of unlike length, make one update of them: the largest |Δ logp|."""
    policy = Policy(model=model, tokenizer=Endless(), config={}, path=Path(), source="random", plan=plan)  # type: ignore[arg-type]
    groups = [
        group(prompt, rollouts)
        for prompt, rollouts in zip(
            PROMPTS, generate(policy, PROMPTS, 3, Sampling(max_new_tokens=NEW_TOKENS)), strict=True
        )
    ]
    for one in groups:
        for rollout, advantage in zip(one.rollouts, (1.0, -0.4, -0.6), strict=True):
            rollout.advantage = advantage
    batches = make_microbatches(groups, LOSS_TYPES["grpo"], NEW_TOKENS, len(groups), has_reference=False)
    objective = objective_of(
        "grpo", 1.0, 0.2, 0.2, 0.0, plan.share_prefix, head=find_head(model), together=plan.shared
    )
    parts = [part for batch in batches for part in batch.in_rows(1 if plan.trained == "single" else None)]
    _, result = accumulate(model, parts, objective)
    if not 0.0 < result.grad_norm < float("inf"):
        return float("nan")
    gaps = [
        mx.abs(found - part.old_logprobs).max().item()
        for part, found in zip(parts, result.logprobs, strict=True)
    ]
    return max(float(gap) for gap in gaps)  # type: ignore[arg-type]


def row(name: str) -> str:
    """A line of the table."""
    model = make(name)
    started = time.perf_counter()
    try:
        plan = planned(model)
    except ModelError as error:
        return f"| {name} | refused | {error.message} | | |"
    seconds = time.perf_counter() - started
    training = "shared prompt" if plan.share_prefix else f"whole sequences, {plan.trained} rows"
    off = deviation(model, plan)
    verdict = "ok" if off < 1e-3 else "WRONG"
    return f"| {name} | {verdict} | sampled in {plan.sampled} rows; {training} | {off:.1e} | {seconds:.2f} |"


def main() -> None:
    """Print the table."""
    device.prepare()
    print(
        "| kind | verdict | how | largest difference of logprobs | seconds of the probe |\n|---|---|---|---|---|"
    )
    for name in sys.argv[1:] or KINDS:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
