"""`--to peft`: tensors and settings by hand, and what is refused. With peft: test_peft_with_torch.py."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import CheckResult, Options
from grpo_cli.convert.run import convert
from grpo_cli.convert.to_peft import convert_to_peft
from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from grpo_cli.models.load import load_policy
from tests.support.shaken_adapters import shaken

pytestmark = pytest.mark.usefixtures("elsewhere")
IDS = mx.array([[5, 7, 11, 13, 17]])


def adapters(base: Path, lora: LoRA) -> Path:
    policy = load_policy(str(base))
    add_adapters(policy.model, lora)
    Path("mine").mkdir()
    save_adapters(shaken(policy.model), lora, str(base), Path("mine"))
    return Path("mine")


def written(source: Path) -> tuple[Path, list[CheckResult]]:
    checks: list[CheckResult] = []
    done = convert_to_peft(str(source), Options(), lambda *_: None, checks.append)
    return done.output, checks


def arrays(path: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(path))
    return dict(found)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_tensors_and_settings(kind: Any, llama: Path) -> None:
    """The last layer's q_proj: A and B transposed, alpha = scale · rank."""
    source = adapters(llama, LoRA(rank=3, scale=2.5, layers=1, kind=kind, keys=("self_attn.q_proj",)))
    folder, checks = written(source)
    assert folder == Path("models/mine-peft")
    assert [(check.name, check.passed) for check in checks] == [("adapters", True)]
    ours, theirs = arrays(source / "adapters.safetensors"), arrays(folder / "adapter_model.safetensors")
    path = "model.layers.1.self_attn.q_proj"
    expected = {"lora_A.weight": ours[f"{path}.lora_a"].T, "lora_B.weight": ours[f"{path}.lora_b"].T}
    if kind == "dora":
        expected["lora_magnitude_vector"] = ours[f"{path}.m"]
    assert theirs.keys() == {f"base_model.model.{path}.{name}" for name in expected}
    for name, array in expected.items():
        assert mx.array_equal(theirs[f"base_model.model.{path}.{name}"], array)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_dora"]) == (3, 7.5, kind == "dora")
    assert config["target_modules"] == [path]
    assert config["base_model_name_or_path"] == str(llama)


def test_they_load_here_again(llama: Path) -> None:
    source = adapters(llama, LoRA(rank=3, scale=2.5))
    folder, _ = written(source)
    again, before = load_policy(str(folder)), load_policy(str(source))
    assert mx.array_equal(again.model(IDS), before.model(IDS))
    assert not mx.allclose(before.model(IDS), load_policy(str(llama)).model(IDS), atol=1e-2)


def test_a_full_model_is_refused(llama: Path) -> None:
    with pytest.raises(ConversionError) as error:
        written(llama)
    assert error.value.hint == f"a full model goes to transformers by `grpo convert --to hf {llama}`"


def test_a_base_that_mlx_quantized_is_refused(llama: Path, tmp_path: Path) -> None:
    small = convert(str(llama), Options(output=tmp_path / "small", quantize=True, group_size=32)).output
    source = adapters(small, LoRA(rank=2))
    with pytest.raises(ConversionError, match="which MLX quantized and transformers cannot read"):
        written(source)
    assert not Path("models").exists()


def test_adapters_on_a_tied_embedding_are_refused(llama: Path) -> None:
    source = adapters(llama, LoRA(rank=2, keys=("model.embed_tokens",)))
    with pytest.raises(ConversionError) as error:
        written(source)
    assert "PEFT has no counterpart for the adapters on model.embed_tokens (Embedding)" in str(error.value)
