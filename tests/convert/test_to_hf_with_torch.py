"""Folders that `--to hf` writes, in transformers: every listed family, adapters fused, quantized bases.

Left out where torch is missing;
`uv run --group torch pytest tests/convert/test_to_hf_with_torch.py` brings it.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from grpo_cli.convert.options import Options
from grpo_cli.convert.run import convert
from grpo_cli.convert.to_hf import convert_to_hf
from grpo_cli.convert.transformers_names import FAMILIES
from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from grpo_cli.models.nanochat_fast import hf_tokenizer, hf_tokenizer_config
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from tests.support.shaken_adapters import shaken

torch = pytest.importorskip("torch", reason="needs torch: `uv run --group torch pytest`")
transformers = pytest.importorskip("transformers")

IDS = list(range(5, 17))
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 320, "eos_token_id": 311, "pad_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "num_hidden_layers": 6},
    "qwen3": {"head_dim": 8},
    "glm4": {"head_dim": 8, "partial_rotary_factor": 0.5},
    "helium": {"head_dim": 8},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def write_base(kind: str, folder: Path) -> Path:
    """A random model of transformers with a tokenizer of 317 tokens."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SIZES | OWN.get(kind, {}))
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    hf_tokenizer(NanochatTokenizer.load(TINY).encoding).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(hf_tokenizer_config()))
    return folder


def by_torch(folder: Path) -> np.ndarray[Any, Any]:
    """Logits (1, T, V) of a folder that transformers loads; no weight may be missing or left over."""
    model, seen = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not seen["missing_keys"]
    assert not seen["unexpected_keys"]
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = model.eval()(torch.tensor([IDS])).logits.float().numpy()
    return logits


def by_mlx(folder: Path) -> np.ndarray[Any, Any]:
    return np.array(load_policy(str(folder)).model(mx.array([IDS])))


def to_hf(source: Path, output: Path, **options: Any) -> Path:
    return convert_to_hf(
        str(source), Options(output=output, **options), lambda *_: None, lambda _: None
    ).output


@pytest.mark.parametrize("kind", FAMILIES)
def test_there_and_back_again(kind: str, tmp_path: Path) -> None:
    """transformers → mlx-lm → transformers: the same logits in all three."""
    base = write_base(kind, tmp_path / "base")
    expected = by_torch(base)
    ours = convert(str(base), Options(output=tmp_path / "mlx")).output
    assert np.abs(by_mlx(ours) - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())
    back = to_hf(ours, tmp_path / "hf")
    assert np.abs(by_torch(back) - expected).max() < 1e-5


@pytest.mark.parametrize("lora", [LoRA(rank=3, scale=2.0), LoRA(rank=3, scale=2.0, layers=2, kind="dora")])
def test_fused_adapters(lora: LoRA, tmp_path: Path) -> None:
    base = write_base("llama", tmp_path / "base")
    policy = load_policy(str(base))
    add_adapters(policy.model, lora)
    (tmp_path / "adapters").mkdir()
    save_adapters(shaken(policy.model), lora, str(base), tmp_path / "adapters")
    found = by_torch(to_hf(tmp_path / "adapters", tmp_path / "hf"))
    assert np.abs(found - by_torch(base)).max() > 1e-2
    assert np.abs(found - by_mlx(tmp_path / "adapters")).max() < 1e-4


def test_a_quantized_model_is_written_in_full(tmp_path: Path) -> None:
    base = write_base("qwen2", tmp_path / "base")
    small = convert(str(base), Options(output=tmp_path / "small", quantize=True, group_size=32)).output
    found = by_torch(to_hf(small, tmp_path / "hf"))
    assert np.abs(found - by_mlx(small)).max() < 1e-4
    assert np.abs(found - by_torch(base)).max() > 1e-3


def test_half_precision(tmp_path: Path) -> None:
    base = write_base("llama", tmp_path / "base")
    half = to_hf(base, tmp_path / "hf", dtype="bfloat16")
    model = transformers.AutoModelForCausalLM.from_pretrained(half)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
