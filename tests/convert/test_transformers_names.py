"""Names of mlx-lm's parameters in transformers: the same, or experts one by one."""

import pytest

from grpo_cli.convert.transformers_names import as_transformers


@pytest.mark.parametrize("kind", ["llama", "qwen2_moe", "mixtral"])
def test_whole_parameters_keep_their_names(kind: str) -> None:
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.bias", "lm_head.weight"):
        assert list(as_transformers(kind, name, (7, 5))) == [(name, None)]


@pytest.mark.parametrize(
    ("kind", "name", "experts"),
    [
        ("qwen3_moe", "layers.3.mlp.switch_mlp.up_proj.weight", "layers.3.mlp.experts.{}.up_proj.weight"),
        (
            "mixtral",
            "model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight",
            "model.layers.0.block_sparse_moe.experts.{}.w3.weight",
        ),
        (
            "mixtral",
            "model.layers.0.block_sparse_moe.switch_mlp.gate_proj.weight",
            "model.layers.0.block_sparse_moe.experts.{}.w1.weight",
        ),
    ],
)  # fmt: skip
def test_experts_one_by_one(kind: str, name: str, experts: str) -> None:
    found = list(as_transformers(kind, name, (2, 48, 32)))
    assert found == [(experts.format(0), 0), (experts.format(1), 1)]
