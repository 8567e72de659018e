"""`--to hf`: the folder's files, its numbers, and what is refused. With torch: test_to_hf_with_torch.py."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.convert import to_hf
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import CheckResult, Options
from grpo_cli.convert.run import convert
from grpo_cli.convert.to_hf import convert_to_hf
from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from grpo_cli.models.load import load_policy
from grpo_cli.models.safetensors_header import read_header
from tests.support.shaken_adapters import shaken

pytestmark = pytest.mark.usefixtures("elsewhere")
IDS = mx.array([[5, 7, 11, 13, 17]])


def written(source: Path, **options: Any) -> tuple[Path, list[CheckResult]]:
    checks: list[CheckResult] = []
    done = convert_to_hf(str(source), Options(**options), lambda *_: None, checks.append)
    return done.output, checks


def arrays(folder: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(folder / "model.safetensors"))
    return dict(found)


def test_a_plain_model_keeps_its_numbers(llama: Path) -> None:
    folder, checks = written(llama)
    assert folder == Path("models/llama-hf")
    assert [(check.name, check.passed) for check in checks] == [("strict load", True), ("logits", True)]
    before, after = arrays(llama), arrays(folder)
    assert before.keys() == after.keys()
    assert all(mx.array_equal(before[name], after[name]).item() for name in before)
    assert b'"__metadata__":{"format":"pt"}' in (folder / "model.safetensors").read_bytes()[:200]
    assert (folder / "tokenizer.json").is_file()


def test_a_quantized_model_is_written_in_full(llama: Path, tmp_path: Path) -> None:
    small = convert(str(llama), Options(output=tmp_path / "small", quantize=True, group_size=32)).output
    folder, _ = written(small)
    config = json.loads((folder / "config.json").read_text())
    assert not {"quantization", "quantization_config"} & config.keys()
    assert {tensor.dtype for tensor in read_header(folder / "model.safetensors").values()} == {"F32"}
    assert mx.allclose(load_policy(str(folder)).model(IDS), load_policy(str(small)).model(IDS), atol=1e-5)


def test_adapters_are_fused(llama: Path, tmp_path: Path) -> None:
    policy, lora = load_policy(str(llama)), LoRA(rank=2, scale=3.0, layers=1)
    add_adapters(policy.model, lora)
    (tmp_path / "mine").mkdir()
    save_adapters(shaken(policy.model), lora, str(llama), tmp_path / "mine")
    folder, _ = written(tmp_path / "mine", dtype="bfloat16")
    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == ("bfloat16", "bfloat16")
    assert {tensor.dtype for tensor in read_header(folder / "model.safetensors").values()} == {"BF16"}
    assert mx.allclose(load_policy(str(folder)).model(IDS), policy.model(IDS), atol=0.05)
    assert not mx.allclose(policy.model(IDS), load_policy(str(llama)).model(IDS), atol=0.05)


def test_a_wrong_result_is_deleted(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapped names of two tensors of one shape load everywhere; the logits tell."""

    def swapped(_model_type: str, name: str, _shape: tuple[int, ...]) -> list[tuple[str, None]]:
        other = {"0.self_attn.q_proj": "0.self_attn.o_proj", "0.self_attn.o_proj": "0.self_attn.q_proj"}
        key = next((key for key in other if key in name), None)
        return [(name.replace(key, other[key]) if key else name, None)]

    monkeypatch.setattr(to_hf, "as_transformers", swapped)
    with pytest.raises(ConversionError, match=r"the result failed a check \(logits"):
        written(llama)
    assert not Path("models/llama-hf").exists()


def test_families_that_are_not_known_are_named(llama: Path) -> None:
    with pytest.raises(ConversionError) as error:
        written(Path("tiny"))
    assert error.value.hint == "nanochat's own files: `grpo convert --to nanochat tiny`"
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    with pytest.raises(ConversionError, match="a mamba model, which cannot be written for transformers"):
        written(llama)
