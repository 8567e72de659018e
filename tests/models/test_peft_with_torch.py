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

from grpo_cli.convert.fuse import fuse
from grpo_cli.convert.options import Options
from grpo_cli.convert.to_peft import convert_to_peft
from grpo_cli.engine.train import train
from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from grpo_cli.models.nanochat_fast import hf_tokenizer, hf_tokenizer_config
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from tests.support import letter_reward
from tests.support.shaken_adapters import shaken
from tests.support.small_runs import small

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


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_trained_on_and_go_back(kind: str, base: Path, tmp_path: Path) -> None:
    """peft → two steps of GRPO → peft: its logits are those of the trained policy."""
    before = made_by_peft(base, tmp_path / "theirs", **KINDS[kind])
    final = train(
        small(tmp_path, adapter=str(tmp_path / "theirs"), model_name=str(base), learning_rate=3e-3,
              temperature=1.5, max_new_tokens=8, reward_functions=[f"{letter_reward.__file__}:mean_letter"])
    )  # fmt: skip
    options = Options(output=tmp_path / "back")
    convert_to_peft(str(final), options, lambda *_: None, lambda check: seen(check.passed))
    found = read_by_peft(base, tmp_path / "back")
    assert np.abs(found - by_mlx(load_policy(str(final)).model)).max() < 1e-4
    assert np.abs(found - before).max() > 1e-3


def seen(passed: bool) -> None:
    assert passed


def test_adapters_of_mlx_lm_in_peft(base: Path, tmp_path: Path) -> None:
    """Every linear layer of the last two of three, as `mlx_lm.lora --num-layers 2` has them."""
    policy = load_policy(str(base))
    lora = LoRA(rank=3, scale=20.0, layers=2)
    add_adapters(policy.model, lora)
    (tmp_path / "ours").mkdir()
    save_adapters(shaken(policy.model, 0.02), lora, str(base), tmp_path / "ours")
    output = tmp_path / "peft"
    convert_to_peft(str(tmp_path / "ours"), Options(output=output), lambda *_: None, lambda _: None)
    assert np.abs(read_by_peft(base, output) - by_mlx(policy.model)).max() < 1e-4


def test_the_merged_model_is_the_fused_one(base: Path, tmp_path: Path) -> None:
    """modules_to_save and adapters: peft's merge_and_unload and our --fuse."""
    made_by_peft(base, tmp_path / "theirs", target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = transformers.Qwen2ForCausalLM.from_pretrained(base)
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "theirs")
    adapted.base_model.model.lm_head.modules_to_save["default"].weight.data += 0.1
    adapted.save_pretrained(tmp_path / "changed")
    expected = by_torch(adapted.merge_and_unload().eval())
    fused = fuse(str(tmp_path / "changed"), Options(output=tmp_path / "fused")).output
    assert np.abs(by_mlx(load_policy(str(fused)).model) - expected).max() < 1e-4
