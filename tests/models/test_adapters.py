"""Adapters of every kind: what they compute and train, what their reference is, what mlx-lm loads."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import pytest
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.utils import quantize_model

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine import setup
from grpo_cli.engine.train import train
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.errors import ModelError
from grpo_cli.models.adapter_config import Kind
from grpo_cli.models.adapters import (
    LoRA,
    adapters_off,
    add_adapters,
    fuse_adapters,
    load_adapters,
    save_adapters,
)
from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from grpo_cli.models.tree import flat
from tests.support.random_models import llama_policy, nanochat_policy
from tests.support.shaken_adapters import shaken
from tests.support.small_runs import small
from tests.support.steps import scored_groups

KINDS: tuple[Kind, ...] = ("lora", "dora")
IDS = mx.array([[5, 7, 11, 13, 17]])


def same(a: mx.array, b: mx.array) -> bool:
    return bool(mx.array_equal(a, b).item())


# --- what they compute --------------------------------------------------------------------------------


def dora_by_hand() -> DoRALinear:
    """W = [[3, 4], [0, 2]], A = [1, −1], B = [2, 0], s = 0.5: the delta is [[1, −1], [0, 0]]; m = [10, 6]."""
    linear = nn.Linear(2, 2, bias=False)
    linear.weight = mx.array([[3.0, 4.0], [0.0, 2.0]])
    layer = DoRALinear.from_base(linear, r=1, scale=0.5)
    layer.lora_a, layer.lora_b = mx.array([[1.0], [-1.0]]), mx.array([[2.0, 0.0]])
    layer.m = mx.array([10.0, 6.0])
    return layer


def test_dora_by_hand() -> None:
    """W + delta = [[4, 3], [0, 2]] has rows of length 5 and 2; x = [1, 2] gives [10, 4], times m / length."""
    assert dora_by_hand()(mx.array([[1.0, 2.0]])).tolist() == [[20.0, 12.0]]


def test_the_gradient_of_dora_by_hand() -> None:
    """Of the sum of y, with the row lengths constant: c = m / length = [2, 3].

    dm = [10, 4] / [5, 2]; dB = s · (x A) · c = 0.5 · (−1) · [2, 3]; dA = s · x · (B · c) = 0.5 · [1, 2] · 4.
    """
    layer = dora_by_hand()
    layer.linear.freeze()
    gradients = nn.value_and_grad(layer, lambda: layer(mx.array([[1.0, 2.0]])).sum())()[1]
    assert set(gradients) == {"m", "lora_a", "lora_b", "linear", "dropout"}
    assert flat(gradients).keys() == {"m", "lora_a", "lora_b"}
    assert gradients["m"].tolist() == [2.0, 2.0]
    assert gradients["lora_b"].tolist() == [[-1.0, -1.5]]
    assert gradients["lora_a"].tolist() == [[2.0], [4.0]]


@pytest.mark.parametrize("policy", [nanochat_policy, llama_policy])
@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_begin_as_nothing_and_off_they_are_the_base_to_the_bit(
    policy: Any, layers: int, kind: Kind
) -> None:
    model = policy().model
    base = model(IDS)
    mx.eval(base)
    add_adapters(model, LoRA(rank=2, scale=10.0, layers=layers, kind=kind))
    assert mx.allclose(model(IDS), base, atol=1e-5)
    shaken(model)
    adapted = model(IDS)
    assert not mx.allclose(adapted, base, atol=1e-2)
    before = set(flat(model.trainable_parameters()))
    with adapters_off(model):
        assert same(model(IDS), base)
    assert same(model(IDS), adapted)
    assert set(flat(model.trainable_parameters())) == before
    leaves = {name.rsplit(".", 1)[1] for name in before}
    assert leaves == ({"lora_a", "lora_b", "m"} if kind == "dora" else {"lora_a", "lora_b"})


def test_adapters_come_back_after_an_error() -> None:
    model = nanochat_policy().model
    add_adapters(model, LoRA(rank=2))
    with pytest.raises(ZeroDivisionError), adapters_off(model):
        assert 1 / 0
    assert any(isinstance(module, LoRALinear) for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_fused_is_adapted(kind: Kind) -> None:
    model = nanochat_policy().model
    add_adapters(model, LoRA(rank=2, scale=10.0, layers=0, kind=kind))
    adapted = shaken(model)(IDS)
    names = set(flat(nanochat_policy().model.parameters()))
    fuse_adapters(model)
    assert set(flat(model.parameters())) == names
    assert mx.abs(model(IDS) - adapted).max().item() < 1e-5 * mx.abs(adapted).max().item()


# --- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lora",
    [
        LoRA(rank=3, scale=2.5),
        LoRA(rank=3, scale=2.5, layers=1, kind="dora"),
        LoRA(rank=2, scale=4.0, layers=0, kind="dora", keys=("attn.c_q",)),
        LoRA(rank=2, scale=4.0, layers=2, kind="lora", keys=("mlp.c_proj", "attn.c_v")),
    ],
)
def test_what_is_saved_is_what_plain_mlx_lm_loads_and_what_we_load(lora: LoRA, tmp_path: Path) -> None:
    tiny = load_policy("tiny")
    add_adapters(tiny.model, lora)
    adapted = shaken(tiny.model)(IDS)
    save_adapters(tiny.model, lora, "tiny", tmp_path)
    plain, _ = mlx_lm.utils.load(str(TINY), adapter_path=str(tmp_path))
    plain.set_dtype(mx.float32)
    assert mx.allclose(plain(IDS), adapted, atol=1e-5)
    again = load_policy(str(tmp_path))
    assert again.lora == dataclasses.replace(lora, layers=lora.layers or len(tiny.model.layers))
    assert same(again.model(IDS), adapted)
    adapted_modules = {name.rsplit(".", 1)[0] for name in flat(again.model.trainable_parameters())}
    each = len(lora.keys) or 6  # linear layers of one layer
    assert len(adapted_modules) == each * (lora.layers or len(tiny.model.layers))


def test_minus_one_is_all_layers_as_in_mlx_lm(tmp_path: Path) -> None:
    tiny = load_policy("tiny")
    add_adapters(tiny.model, LoRA(rank=2))
    save_adapters(tiny.model, LoRA(rank=2), "tiny", tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_layers": -1}))
    assert load_policy(str(tmp_path)).lora == LoRA(rank=2)


@pytest.mark.parametrize("kind", ["full", "ia3"])
def test_adapters_of_another_kind_are_refused(kind: str, tmp_path: Path) -> None:
    tiny = load_policy("tiny")
    add_adapters(tiny.model, LoRA(rank=2))
    save_adapters(tiny.model, LoRA(rank=2), "tiny", tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "fine_tune_type": kind}))
    with pytest.raises(ModelError) as error:
        load_policy(str(tmp_path))
    assert error.value.message == f'{file} describes adapters of the kind "{kind}"'
    assert error.value.hint == "only `lora` and `dora` are supported; fuse them: `mlx_lm.fuse`"


def test_dora_adapters_do_not_load_as_lora(tmp_path: Path) -> None:
    tiny = load_policy("tiny")
    lora = LoRA(rank=2, kind="dora")
    add_adapters(tiny.model, lora)
    save_adapters(tiny.model, lora, "tiny", tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "fine_tune_type": "lora"}))
    with pytest.raises(ModelError, match=r"do not fit tiny: .*\.m"):
        load_adapters(load_policy("tiny").model, tmp_path)


def test_dora_refuses_a_layer_that_it_cannot_adapt() -> None:
    model = nanochat_policy().model
    model.layers[1].experts = SwitchLinear(8, 8, 2)
    with pytest.raises(ModelError) as error:
        add_adapters(model, LoRA(rank=2, kind="dora"))
    assert error.value.message == ('lora_type = "dora" cannot adapt `experts` of this model, a SwitchLinear')
    add_adapters(model, LoRA(rank=2))


# --- rsLoRA -------------------------------------------------------------------------------------------


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    assert Config(lora_rank=16, lora_scale=8.0, use_rslora=True).adapter_scale == 2.0
    assert Config(lora_rank=16, lora_scale=8.0).adapter_scale == 8.0


def test_rslora_reaches_the_adapters_and_their_file(tmp_path: Path) -> None:
    final = train(small(tmp_path, lora_rank=2, lora_scale=5.0, use_rslora=True, max_steps=1))
    written = json.loads((final / "adapter_config.json").read_text())["lora_parameters"]
    assert written == {"rank": 2, "scale": 5.0 / math.sqrt(2), "dropout": 0.0}
    adapters = [m for m in load_policy(str(final)).model.modules() if isinstance(m, LoRALinear)]
    assert {adapter.scale for adapter in adapters} == {5.0 / math.sqrt(2)}


# --- QLoRA --------------------------------------------------------------------------------------------


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """The embedded model in 4 bits, in a folder."""
    tiny = load_policy("tiny", "float32")
    model, config = quantize_model(tiny.model, dict(tiny.config), group_size=32, bits=4)
    folder = tmp_path / "tiny-4bit"
    folder.mkdir()
    mlx_lm.utils.save_model(folder, model)
    mlx_lm.utils.save_config(config, folder / "config.json")
    tiny.tokenizer.save(folder)
    return folder


@pytest.fixture
def computes_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which quantised products are fast, as Metal and CUDA are."""
    facts = dataclasses.replace(device.prepare(), upcast=False)
    monkeypatch.setattr(device, "prepare", lambda: facts)


def qlora(folder: Path, base: Path, kind: Kind, **changes: Any) -> Config:
    return small(folder, model_name=str(base), lora_rank=2, lora_type=kind, learning_rate=1e-2, **changes)


@pytest.mark.usefixtures("computes_quantised")
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_stays_quantised_and_only_adapters_learn(
    quantized: Path, kind: Kind, tmp_path: Path
) -> None:
    run = setup.prepare(qlora(tmp_path, quantized, kind, kl_coeff=0.1, temperature=1.5, max_new_tokens=12))
    model = run.policy.model
    stored: dict[str, mx.array] = mx.load(str(quantized / "model.safetensors"))  # type: ignore[assignment]
    assert any(array.dtype == mx.uint32 for array in stored.values())
    groups = scored_groups(run)
    for group in groups:
        for index, rollout in enumerate(group.rollouts):
            rollout.advantage = 1.0 if index % 2 == 0 else -1.0
    before = {name: mx.array(array) for name, array in flat(model.trainable_parameters()).items()}
    numbers = update_policy(run, 1, make_batches(run, groups))
    assert numbers["grad_norm"] > 0
    assert numbers["kl"] == pytest.approx(0.0, abs=1e-6)
    update_policy(run, 2, make_batches(run, groups))
    after = flat(model.trainable_parameters())
    assert all(not same(after[name], before[name]) for name in before)
    assert len(base_of(model, stored)) == len(stored)


def base_of(model: nn.Module, stored: dict[str, mx.array]) -> list[str]:
    """The stored tensors that the model still has, to the bit."""
    with adapters_off(model):
        held = flat(model.parameters())
    return [name for name, array in stored.items() if name in held and same(held[name], array)]


@pytest.mark.usefixtures("computes_quantised")
@pytest.mark.parametrize("kind", KINDS)
def test_a_qlora_checkpoint_is_adapters_that_name_the_quantised_base(
    quantized: Path, kind: Kind, tmp_path: Path
) -> None:
    seen = (quantized / "model.safetensors").read_bytes()
    final = train(qlora(tmp_path, quantized, kind, max_steps=1))
    assert not list(final.glob("model*"))
    assert (quantized / "model.safetensors").read_bytes() == seen
    written = json.loads((final / "adapter_config.json").read_text())
    assert (written["model"], written["fine_tune_type"]) == (str(quantized), kind)
    policy = load_policy(str(final))
    assert "quantization" in policy.config
    plain, _ = mlx_lm.utils.load(str(quantized), adapter_path=str(final))
    assert same(plain(IDS), policy.model(IDS))
    assert same(load_policy(str(final)).model(IDS), policy.model(IDS))


def test_on_a_cpu_the_base_is_dequantised(quantized: Path, tmp_path: Path) -> None:
    final = train(qlora(tmp_path, quantized, "dora", max_steps=1))
    policy = load_policy(str(final))
    assert "quantization" not in policy.config
    assert {array.dtype for array in flat(policy.model.parameters()).values()} == {mx.float32}
    plain, _ = mlx_lm.utils.load(str(quantized), adapter_path=str(final))  # quantised products
    assert mx.allclose(plain(IDS), policy.model(IDS), atol=1e-3)


def test_half_precision_scales_are_dequantised_without_rounding(quantized: Path) -> None:
    model, config = mlx_lm.utils.load_model(quantized)
    model.set_dtype(mx.bfloat16)  # what quantised models on the hub have
    mlx_lm.utils.save_model(quantized, model)
    stored: Any = mx.load(str(quantized / "model.safetensors"))
    name = "transformer.h.0.mlp.c_fc"
    packed, scales, biases = (stored[f"{name}.{part}"] for part in ("weight", "scales", "biases"))
    assert scales.dtype == mx.bfloat16
    bits = mx.arange(0, 32, 4, dtype=mx.uint32)
    integers = ((packed[..., None] >> bits) & 15).reshape(packed.shape[0], -1, 32).astype(mx.float32)
    exact = integers * scales[..., None].astype(mx.float32) + biases[..., None].astype(mx.float32)
    loaded = flat(load_policy(str(quantized)).model.parameters())[f"{name}.weight"]
    assert mx.allclose(loaded, exact.reshape(loaded.shape), rtol=1e-6, atol=1e-7)
    assert config["quantization"]["group_size"] == 32
