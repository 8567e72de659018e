"""Adapters and their base made one: the same logits, in a folder that plain mlx-lm loads."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.fuse import fuse
from grpo_cli.convert.options import CheckResult, Conversion, Options
from grpo_cli.convert.run import convert
from grpo_cli.engine.train import train
from grpo_cli.errors import ModelError
from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from grpo_cli.models.load import load_policy
from tests.support.shaken_adapters import shaken
from tests.support.small_runs import small

pytestmark = pytest.mark.usefixtures("elsewhere")

CHECKS = ["fused", "strict load", "finite", "tokenizer", "generation"]
IDS = mx.array([[5, 7, 11, 13, 17]])


def fused(source: object, **options: Any) -> tuple[Conversion, list[CheckResult]]:
    checks: list[CheckResult] = []
    return fuse(str(source), Options(**options), on_check=checks.append), checks


def logits(folder: object) -> mx.array:
    result: mx.array = load_policy(str(folder)).model(IDS)
    return result


def far(a: mx.array, b: mx.array) -> float:
    """The largest difference, relative to the largest number of b."""
    return float(mx.abs(a - b).max().item() / mx.abs(b).max().item())


def adapters(base: object, folder: Path, lora: LoRA) -> Path:
    """Random adapters on a base, as mlx-lm writes them."""
    folder.mkdir()
    policy = load_policy(str(base))
    add_adapters(policy.model, lora)
    shaken(policy.model)
    save_adapters(policy.model, lora, policy.portable_source, folder)
    return folder


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_checkpoint_of_a_run(kind: str, tmp_path: Path) -> None:
    settings = {"lora_rank": 2, "lora_type": kind, "lora_layers": 2, "learning_rate": 1e-2}
    final = train(small(tmp_path / "outputs", **settings))
    done, checks = fused(final)
    assert done.output == Path("models/run-final-mlx")
    assert [(check.name, check.passed) for check in checks] == [(name, True) for name in CHECKS]
    assert far(logits(done.output), logits(final)) < 1e-5
    assert far(logits(done.output), logits("tiny")) > 1e-3  # the adapters did something
    plain, tokenizer = mlx_lm.utils.load(str(done.output))
    assert far(plain(IDS), logits(final)) < 1e-5
    assert tokenizer.encode("12 + 30") == load_policy("tiny").tokenizer.encode("12 + 30")
    assert not list(done.output.glob("adapter*"))
    assert {array.dtype for array in load_arrays(done.output).values()} == {mx.float32}
    assert train(small(tmp_path / "more", model_name=str(done.output))).exists()


def load_arrays(folder: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(folder / "model.safetensors"))
    return found


@pytest.mark.parametrize(
    "lora",
    [
        LoRA(rank=4, scale=2.0),
        LoRA(rank=4, scale=2.0, layers=1, kind="dora"),
        LoRA(rank=4, scale=2.0, layers=0, kind="dora", keys=("self_attn.q_proj",)),
    ],
)
def test_adapters_of_mlx_lm_on_a_model_in_transformers_format(
    lora: LoRA,
    llama: Path,
    tmp_path: Path,
) -> None:
    source = adapters(llama, tmp_path / "mine", lora)
    done, checks = fused(source)
    assert done.output == Path("models/mine-mlx")
    assert [(check.name, check.passed) for check in checks] == [(name, True) for name in CHECKS]
    assert far(logits(done.output), logits(source)) < 1e-5
    assert far(logits(done.output), logits(llama)) > 1e-2
    assert not done.is_nanochat
    assert (done.output / "tokenizer.json").exists()


@pytest.mark.parametrize("scales", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_onto_a_quantised_base(kind: Any, scales: str, llama: Path, tmp_path: Path) -> None:
    """It is dequantised, to the bit what its integers and scales say, and not quantised again by itself."""
    base = convert(str(llama), Options(quantize=True, dtype=scales)).output.resolve()  # type: ignore[arg-type]
    source = adapters(base, tmp_path / "mine", LoRA(rank=4, scale=2.0, layers=0, kind=kind))
    done, _ = fused(source)
    assert "quantization" not in json.loads((done.output / "config.json").read_text())
    assert {array.dtype for array in load_arrays(done.output).values()} == {mx.float32}
    assert far(logits(done.output), logits(source)) < 1e-5


def test_quantised_again(llama: Path, tmp_path: Path) -> None:
    base = convert(str(llama), Options(quantize=True, bits=8)).output.resolve()
    source = adapters(base, tmp_path / "mine", LoRA(rank=4, scale=2.0))
    done, checks = fused(source, quantize=True, bits=8, group_size=32)
    assert [check.name for check in checks] == [CHECKS[0], "weights", *CHECKS[1:]]
    config = json.loads((done.output / "config.json").read_text())
    assert (config["quantization"]["bits"], config["quantization"]["group_size"]) == (8, 32)
    assert 1e-5 < far(logits(done.output), logits(source)) < 0.05
    assert not [path for path in done.output.iterdir() if path.is_dir()]
    assert (done.output / "tokenizer.json").exists()


def test_in_half_precision(tmp_path: Path) -> None:
    source = adapters("tiny", tmp_path / "mine", LoRA(rank=4, scale=2.0))
    done, _ = fused(source, dtype="bfloat16", output=tmp_path / "half")
    assert {array.dtype for array in load_arrays(done.output).values()} == {mx.bfloat16}
    assert 1e-5 < far(logits(done.output), logits(source)) < 0.05
    assert (done.output / "tokenizer.pkl").read_bytes() == (
        Path(load_policy("tiny").path) / "tokenizer.pkl"
    ).read_bytes()


def test_a_sum_that_is_not_the_adapted_model_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grpo_cli.convert import fuse as module

    def forgets(model: Any) -> None:
        for adapter in model.modules():
            if "lora_b" in adapter:
                adapter.lora_b = adapter.lora_b * 0.9
        module_fuse(model)

    module_fuse = module.fuse_adapters
    monkeypatch.setattr(module, "fuse_adapters", forgets)
    source = adapters("tiny", tmp_path / "mine", LoRA(rank=4, scale=2.0))
    with pytest.raises(ConversionError, match=r"failed a check \(fused: logits differ"):
        fused(source)
    assert not Path("models").exists() or not list(Path("models").iterdir())


def test_refusals(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as error:
        fused(llama)
    assert error.value.message.endswith(f"{llama} holds no adapters to fuse: adapter_config.json is missing")
    assert error.value.hint == f"it is already a full model: `grpo convert {llama}`"
    source = adapters(llama, tmp_path / "mine", LoRA(rank=2))
    with pytest.raises(ConversionError, match="contains the source"):
        fused(source, output=llama, force=True)
    with pytest.raises(ConversionError) as error:
        convert(str(source), Options())
    assert f"`grpo convert --fuse {source}`" in error.value.hint
    llama.rename(tmp_path / "gone")
    with pytest.raises(ModelError, match="were trained on it"):
        fused(source)


def test_other_shapes_are_refused(llama: Path, tmp_path: Path) -> None:
    source = adapters(llama, tmp_path / "mine", LoRA(rank=2))
    file = source / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "lora_parameters": {**config["lora_parameters"], "rank": 3}}))
    with pytest.raises(ModelError, match="do not fit"):
        fused(source)
