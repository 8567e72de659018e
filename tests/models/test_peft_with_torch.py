"""Adapters that peft itself makes, continued here and brought back: peft's logits are ours.

Left out where torch, transformers' models or peft are missing;
`uv run --group torch pytest tests/models/test_peft_with_torch.py` brings them.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from grpo_cli.models.nanochat_fast import hf_tokenizer, hf_tokenizer_config
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer

torch = pytest.importorskip("torch", reason="needs torch: `uv run --group torch pytest`")
peft = pytest.importorskip("peft", reason="needs peft: `uv run --group torch pytest`")
transformers = pytest.importorskip("transformers")

IDS = list(range(5, 17))
# With biases, grouped heads and a head of its own.
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 320, "tie_word_embeddings": False, "eos_token_id": 311,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "rslora": {"use_rslora": True, "target_modules": "all-linear"},
    "dora": {"use_dora": True, "target_modules": ["q_proj", "up_proj", "down_proj"]},
    "patterns": {
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"up_proj": 7, "model.layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {r"layers\.2\..*": 3},
    },
    "some layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2]},
    "embedding and head": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of transformers, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("peft") / "base"
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    hf_tokenizer(NanochatTokenizer.load(TINY).encoding).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(hf_tokenizer_config()))
    return folder


def by_torch(model: Any) -> np.ndarray[Any, Any]:
    """Logits (1, T, V) of a model of torch."""
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = model(torch.tensor([IDS])).logits.float().numpy()
    return logits


def by_mlx(model: Any) -> np.ndarray[Any, Any]:
    return np.array(model(mx.array([IDS])))


def made_by_peft(base: Path, folder: Path, **settings: Any) -> np.ndarray[Any, Any]:
    """Write random adapters; returns peft's logits with them."""
    model = transformers.Qwen2ForCausalLM.from_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=12, **settings)).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    return by_torch(adapted)


def read_by_peft(base: Path, folder: Path) -> np.ndarray[Any, Any]:
    """The logits of a folder of adapters that peft loads."""
    model = transformers.Qwen2ForCausalLM.from_pretrained(base)
    return by_torch(peft.PeftModel.from_pretrained(model, folder).eval())


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_peft_compute_the_same_here(kind: str, base: Path, tmp_path: Path) -> None:
    expected = made_by_peft(base, tmp_path / "theirs", **KINDS[kind])
    plain = by_mlx(load_policy(str(base)).model)
    assert np.abs(plain - expected).max() > 1e-2
    assert np.abs(by_mlx(load_policy(str(tmp_path / "theirs")).model) - expected).max() < 1e-5
