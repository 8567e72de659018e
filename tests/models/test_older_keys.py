"""Keys that transformers 5 renamed, as mlx-lm's models read them."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import gemma3_text, glm_moe_dsa, llama, mixtral, qwen3_moe, stablelm

from grpo_cli.models.load import load_policy
from grpo_cli.models.older_keys import with_older_keys
from tests.support.llama import write_llama

SCALED = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}


@pytest.mark.parametrize(
    ("config", "arguments", "added"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, llama, {"rope_theta": 5e5}),
        (
            {"rope_parameters": SCALED},
            llama,
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        ),
        ({"rope_parameters": SCALED, "rope_theta": 1e4, "rope_scaling": None}, llama, {}),  # written there
        ({"rope_parameters": SCALED}, glm_moe_dsa, {}),  # reads the table itself
        (
            {"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.25}},
            stablelm,
            {"rope_theta": 5e5, "partial_rotary_factor": 0.25},
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 5e5, "rope_type": "default"},
                    "sliding_attention": {"rope_theta": 2e4},
                }
            },
            gemma3_text,
            {"rope_theta": 5e5, "rope_local_base_freq": 2e4},
        ),
        ({"num_local_experts": 4}, qwen3_moe, {"num_experts": 4}),
        ({"num_local_experts": 4}, mixtral, {}),  # reads it by this name
        ({"rope_parameters": "none"}, llama, {}),
        ({}, llama, {}),
    ],
)
def test_keys_are_added(config: dict[str, Any], arguments: Any, added: dict[str, Any]) -> None:
    assert with_older_keys(config, arguments.ModelArgs) == {**config, **added}


def test_a_folder_of_transformers_5_computes_its_own_positions(tmp_path: Path) -> None:
    """The same logits as with the old key; without either mlx-lm would take 10,000."""
    ids = mx.array([[5, 7, 11, 13, 17, 19, 23]])
    found = {}
    for name, keys in {
        "old": {"rope_theta": 77.0},
        "new": {"rope_parameters": {"rope_theta": 77.0, "rope_type": "default"}},
        "none": {},
    }.items():
        folder = write_llama(tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **keys}))
        policy = load_policy(str(folder))
        found[name] = policy.model(ids)
    assert mx.array_equal(found["new"], found["old"])
    assert not mx.allclose(found["none"], found["old"], atol=1e-3)
