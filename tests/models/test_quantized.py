"""The rounded copy: what is rounded and how, what is shared, and what an update changes in it."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map

from grpo_cli.errors import ModelError
from grpo_cli.models.adapters import LoRA, add_adapters
from grpo_cli.models.quantized import QuantizedCopy, Rounding, copy_bytes, quantizable, rounded
from grpo_cli.models.tree import flat
from tests.support.random_models import llama_policy, nanochat_policy

FOUR = Rounding(bits=4, group_size=32)
IDS = mx.array([[1, 2, 3, 4, 5]])


def by_hand(weight: mx.array, bits: int, group: int) -> mx.array:
    """Every group's numbers to the nearest of 2^bits evenly spaced ones: (out, in)."""
    rows = weight.reshape(-1, group)
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    step = (high - low) / (2**bits - 1)
    return (mx.round((rows - low) / step) * step + low).reshape(weight.shape)


def test_numbers_are_rounded_by_group() -> None:
    """0, 1, … 15 twice in a group of 32 are exactly 4 bits; one bit less, and they are not."""
    exact = mx.concatenate([mx.arange(16), mx.arange(16)]).astype(mx.float32)[None]
    assert mx.allclose(rounded(exact, FOUR.settings), exact, atol=1e-5)
    assert mx.abs(rounded(exact, Rounding(3, 32).settings) - exact).max().item() > 0.5
    mx.random.seed(0)
    weight = mx.random.normal((8, 64))
    for bits in (2, 4, 8):
        found = rounded(weight, Rounding(bits, 32).settings)
        error, mine = (
            mx.abs(found - weight).max().item(),
            mx.abs(by_hand(weight, bits, 32) - weight).max().item(),
        )
        assert (
            error < 2 * mine
        )  # mlx places the scale so that 0 is exact: up to a whole step, not half of one
        assert found.dtype == mx.float32


@pytest.mark.parametrize("policy", [nanochat_policy, llama_policy])
def test_the_copy_computes_with_rounded_weights_and_the_model_stays(policy: Any) -> None:
    model = policy().model
    before = {name: mx.array(array) for name, array in flat(model.parameters()).items()}
    expected = model(IDS)
    copy = QuantizedCopy(model, FOUR, dequantize=True)
    mine = policy().model
    rounding = [
        (name, rounded(array, FOUR.settings) if array.ndim == 2 else array)
        for name, array in flat(mine.parameters()).items()
    ]
    mine.load_weights(rounding)
    assert mx.allclose(copy.model(IDS), mine(IDS), atol=1e-6)
    assert mx.abs(copy.model(IDS) - expected).max().item() > 1e-3
    assert mx.array_equal(model(IDS), expected)
    assert all(mx.array_equal(array, before[name]) for name, array in flat(model.parameters()).items())


@pytest.mark.parametrize("kind", [None, "lora", "dora"])
def test_packed_and_unpacked_are_the_same_policy(kind: Any) -> None:
    model = nanochat_policy().model
    if kind:
        add_adapters(model, LoRA(rank=2, kind=kind))
        model.update(tree_map(lambda array: array + 0.02, model.trainable_parameters()))
    packed, unpacked = (QuantizedCopy(model, FOUR, dequantize) for dequantize in (False, True))
    assert any("scales" in name for name in flat(packed.model.parameters()))
    assert not any("scales" in name for name in flat(unpacked.model.parameters()))
    assert mx.allclose(packed.model(IDS), unpacked.model(IDS), atol=1e-4)


@pytest.mark.parametrize("dequantize", [True, False])
def test_an_update_of_all_weights_arrives_rounded(dequantize: bool) -> None:
    model = llama_policy().model
    copy = QuantizedCopy(model, FOUR, dequantize)
    stale = copy.model(IDS)
    mx.random.seed(1)
    model.update(tree_map(lambda array: array + 0.1 * mx.random.normal(array.shape), model.parameters()))
    assert mx.array_equal(copy.model(IDS), stale)
    copy.refresh(model)
    assert mx.array_equal(copy.model(IDS), QuantizedCopy(model, FOUR, dequantize).model(IDS))
    norm = "model.norm.weight"
    assert flat(copy.model.parameters())[norm] is flat(model.parameters())[norm]


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_are_shared_and_their_base_is_rounded_once(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nanochat_policy().model
    add_adapters(model, LoRA(rank=2, kind=kind))
    copy = QuantizedCopy(model, FOUR, dequantize=True)
    first = {name: array for name, array in flat(copy.model.parameters()).items() if "weight" in name}
    model.update(tree_map(lambda array: array + 0.1, model.trainable_parameters()))
    monkeypatch.setattr(mx, "quantize", None)
    copy.refresh(model)
    now = flat(copy.model.parameters())
    assert all(now[name] is array for name, array in first.items())
    trained = flat(model.trainable_parameters())
    assert trained
    assert all(now[name] is array for name, array in trained.items())


def test_layers_whose_rows_are_no_whole_groups_are_the_models_own() -> None:
    """Hidden 32: of a nanochat, only what has rows of 64 can be rounded in groups of 64."""
    model = nanochat_policy().model
    layers = [path for path, _, _ in quantizable(model, Rounding(4, 64))]
    assert layers == ["transformer.h.1.mlp.c_proj", "transformer.h.0.mlp.c_proj"] or sorted(layers) == [
        "transformer.h.0.mlp.c_proj",
        "transformer.h.1.mlp.c_proj",
    ]
    copy = QuantizedCopy(model, Rounding(4, 64), dequantize=True)
    mine, its = flat(model.parameters()), flat(copy.model.parameters())
    assert {name for name in mine if mine[name] is not its[name]} == {f"{path}.weight" for path in layers}


def test_what_the_copy_takes_by_hand() -> None:
    """A nanochat of two layers: 32 · (32 + 16 + 16 + 32 + 64 + 64) numbers in each, and 2 · 257 · 32."""
    numbers = 2 * 32 * (32 + 16 + 16 + 32 + 64 + 64) + 2 * 257 * 32
    model = nanochat_policy().model
    assert copy_bytes(model, FOUR, dequantize=True) == 4 * numbers
    assert copy_bytes(model, FOUR, dequantize=False) == numbers // 2 + 2 * 4 * numbers // 32
    packed = QuantizedCopy(model, FOUR, dequantize=False).model
    assert sum(a.nbytes for a in flat(packed.parameters()).values()) == numbers // 2 + 2 * 4 * numbers // 32


def test_a_models_own_exceptions_are_kept_to() -> None:
    """mlx-lm's models may say which layers stay, or take more bits."""

    def predicate(path: str, _: nn.Module) -> bool | dict[str, int]:
        return {"group_size": 32, "bits": 8} if path == "lm_head" else "attn" not in path

    model = nanochat_policy().model
    type(model).quant_predicate = property(lambda _: predicate)
    try:
        found = {path: settings["bits"] for path, _, settings in quantizable(model, FOUR)}
        copy = QuantizedCopy(model, FOUR, dequantize=False)
    finally:
        del type(model).quant_predicate
    assert found["lm_head"] == 8
    assert found["transformer.wte"] == 4
    assert not any("attn" in path for path in found)
    assert copy.model.lm_head.bits == 8


def test_nothing_to_round_is_an_error_with_its_cure() -> None:
    model = nanochat_policy().model
    with pytest.raises(ModelError, match="their rows do not divide into groups of 128") as error:
        QuantizedCopy(model, Rounding(4, 128), dequantize=True)
    assert error.value.hint == "write `group_size = 32`, or `quantize_for_rollouts = false`"
    nn.quantize(model, group_size=32, bits=4)
    with pytest.raises(ModelError, match="they are quantized already") as error:
        QuantizedCopy(model, FOUR, dequantize=True)
    assert error.value.hint == "write `quantize_for_rollouts = false`"
