"""Classes of mlx-lm with faults: each fault is there without its repair, and gone with it."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.tuner.utils
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import save_config, save_model

from grpo_cli.engine.update.chunked_logits import find_head
from grpo_cli.models.adapters import LoRA, add_adapters, load_adapters, save_adapters
from grpo_cli.models.classes import load_weights
from grpo_cli.models.repairs import REPAIRS, repaired
from grpo_cli.models.tree import flat
from tests.support.kind_trials import make, moved, unrepaired
from tests.support.model_kinds import config_of
from tests.support.shaken_adapters import shaken

IDS = mx.array([[5, 9, 17, 33, 12, 44, 7, 21, 30, 3, 14, 60]])  # longer than a window


def without(kind: str) -> Any:
    """The model of `make`, unrepaired."""
    return moved(unrepaired(kind))


def gap(found: mx.array, expected: mx.array) -> float:
    largest: Any = mx.abs(found - expected).max().item()
    return float(largest)


def cached(model: Any) -> mx.array:
    """Logits with a cache, token by token."""
    cache = make_prompt_cache(model)
    return mx.concatenate([model(IDS[:, at : at + 1], cache=cache) for at in range(IDS.shape[1])], axis=1)


@pytest.mark.parametrize("kind", ["gemma3n", "plamo3"])
def test_with_a_cache_and_without_is_the_same(kind: str) -> None:
    faulty, model = without(kind), make(kind)
    assert gap(cached(faulty), faulty(IDS)) > 0.1
    assert gap(cached(model), model(IDS)) < 1e-5


def test_the_repaired_forward_of_gemma3n_is_that_of_its_cache() -> None:
    assert gap(make("gemma3n")(IDS), cached(without("gemma3n"))) < 1e-5


def test_the_repaired_cache_of_plamo3_is_its_forward() -> None:
    assert gap(cached(make("plamo3")), without("plamo3")(IDS)) < 1e-5


def after_an_update(model: Any) -> float:
    """Change of the logits by leaving evaluation, after an update behind a forward in evaluation."""
    mx.eval(model.eval()(IDS))
    moved(model)
    return gap(model.eval()(IDS), model.train()(IDS))


def test_products_of_weights_do_not_outlive_an_update() -> None:
    assert after_an_update(without("kimi_k3")) > 0.1
    assert after_an_update(make("kimi_k3")) < 1e-5


@pytest.mark.parametrize(("of", "least", "most"), [(without, 0.1, 10.0), (make, 0.0, 1e-5)])
def test_a_trained_output_matrix_of_baichuan_survives_saving(
    of: Any, least: float, most: float, tmp_path: Path
) -> None:
    model = of("baichuan_m1")
    save_model(tmp_path, model)
    save_config(config_of("baichuan_m1"), tmp_path / "config.json")
    assert least <= gap(load_weights(tmp_path)[0](IDS), model(IDS)) <= most


def test_the_head_of_baichuan_is_found_and_normalized() -> None:
    model: Any = make("baichuan_m1")
    rows = model.lm_head.weight / mx.linalg.norm(model.lm_head.weight, axis=1, keepdims=True)
    assert gap(model(IDS), model.model(IDS) @ rows.T) < 1e-5
    head = find_head(model)
    assert head is not None and head.weights == ("lm_head.weight",)
    doubled = model(IDS)
    model.lm_head.weight = model.lm_head.weight * 2
    assert gap(model(IDS), doubled) < 1e-5


def test_recurrent_gemma_has_weights_to_train(tmp_path: Path) -> None:
    """Its class skips the constructor of nn.Module."""
    faulty = unrepaired("recurrent_gemma")
    with pytest.raises(AttributeError, match="_no_grad"):
        faulty.trainable_parameters()
    made = make("recurrent_gemma")
    save_model(tmp_path, made)
    save_config(config_of("recurrent_gemma"), tmp_path / "config.json")
    model, _ = load_weights(tmp_path)
    assert model.training is False
    _, gradient = nn.value_and_grad(model, lambda: model(IDS).square().sum())()
    assert flat(gradient).keys() == flat(made.parameters()).keys()
    model.freeze()
    assert flat(model.trainable_parameters()) == {}


def test_mlx_lms_own_classes_stay_as_they_are() -> None:
    model: Any = make("plamo3")
    original = import_module("mlx_lm.models.plamo3").Model
    assert isinstance(model, original)
    assert type(model) is not original
    assert (type(model).__module__, type(model).__name__) == ("mlx_lm.models.plamo3", "Model")
    assert "is_repaired" not in vars(original)
    assert type(repaired(model)) is type(make("plamo3"))


def test_layers_of_a_kind_have_one_class() -> None:
    """Gradient checkpointing changes the class of the first layer, which must be that of all."""
    assert len({type(layer) for layer in make("kimi_k3").layers}) == 1


def test_each_repair_names_a_class_of_mlx_lm() -> None:
    for name in REPAIRS:
        module, _, kind = name.partition(".")
        assert isinstance(getattr(import_module(f"mlx_lm.models.{module}"), kind), type)


@pytest.mark.parametrize(("kind", "read"), [("gemma3n", "prediction_coefs"), ("kimi_k3", "mlp_res_proj")])
def test_layers_whose_weight_the_model_reads_have_no_adapter(kind: str, read: str, tmp_path: Path) -> None:
    model, lora = make(kind), LoRA(rank=2)
    before = model(IDS)
    weights = flat(model.parameters())
    add_adapters(model, lora)
    assert gap(model(IDS), before) == 0
    assert not any(name.endswith(f"{read}.lora_a") for name in flat(model.trainable_parameters()))
    save_adapters(shaken(model), lora, "base", tmp_path)
    keys = json.loads((tmp_path / "adapter_config.json").read_text())["lora_parameters"]["keys"]
    assert not any(read in key for key in keys)
    for load in (load_adapters, mlx_lm.tuner.utils.load_adapters):  # ours, and plain mlx-lm's
        base = make(kind)
        base.load_weights(list(weights.items()))
        load(base, tmp_path)
        assert gap(base(IDS), model(IDS)) == 0
    assert gap(model(IDS), before) > 0.01


def test_other_kinds_name_no_layers(tmp_path: Path) -> None:
    model = make("llama")
    add_adapters(model, LoRA(rank=2))
    save_adapters(model, LoRA(rank=2), "base", tmp_path)
    assert "keys" not in json.loads((tmp_path / "adapter_config.json").read_text())["lora_parameters"]
