"""Muon with AdamW: the chosen weights, and updates by hand and against MLX's own rules."""

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_unflatten

from grpo_cli.config.schema import Config
from grpo_cli.engine.update.muon import matrices_of
from grpo_cli.engine.update.optimizer import Optimizer, make_rule
from grpo_cli.models.adapters import LoRA, add_adapters
from grpo_cli.models.tree import flat
from tests.support.random_models import llama_policy, nanochat_policy


def config_of(**keys: Any) -> Config:
    return Config(optimizer="muon", **{"max_grad_norm": 1e9, "learning_rate": 0.1, **keys})


@pytest.mark.parametrize("make_policy", [nanochat_policy, llama_policy])
def test_matrices_are_those_of_the_linear_layers(make_policy: Any) -> None:
    model = make_policy().model
    found, every = matrices_of(model), flat(model.trainable_parameters())
    left = set(every) - found
    assert all("layers." in name or ".h." in name for name in found)
    assert all(every[name].ndim == 1 or "embed" in name or "wte" in name or "head" in name for name in left)
    assert {name for name in left if every[name].ndim == 2}


def test_adapters_are_matrices() -> None:
    policy = llama_policy()
    add_adapters(policy.model, LoRA(rank=2, kind="dora"))
    found = matrices_of(policy.model)
    trained = flat(policy.model.trainable_parameters())
    assert found == {name for name in trained if name.endswith((".lora_a", ".lora_b"))}
    assert set(trained) - found  # the norms of DoRA


class Small(nn.Module):
    """An embedding of 7 words, a layer, and its bias."""

    def __init__(self) -> None:
        super().__init__()
        mx.random.seed(4)
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.Linear(4, 6)
        self.head = nn.Linear(6, 7, bias=False)


def gradients_of(model: nn.Module, step: int) -> dict[str, mx.array]:
    mx.random.seed(50 + step)
    return {name: mx.random.normal(array.shape) for name, array in flat(model.parameters()).items()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_two_updates_are_mlxs_muon_and_adamw(weight_decay: float) -> None:
    model, alone = Small(), flat(Small().parameters())
    assert matrices_of(model) == {"layer.weight"}
    config = config_of(weight_decay=weight_decay, adamw_learning_rate=0.02)
    optimizer = Optimizer(config, model)
    muon = optim.Muon(0.1, momentum=0.95, weight_decay=0.0)
    adamw = optim.AdamW(0.02, betas=[0.9, 0.999], weight_decay=weight_decay, bias_correction=True)
    rest = {name: array for name, array in alone.items() if name != "layer.weight"}
    weight = {"layer.weight": alone["layer.weight"]}
    for step in range(2):
        found = gradients_of(model, step)
        optimizer.step(model, mlx_tree(found), 1.0, learning_rate=0.1 / (step + 1))
        muon.learning_rate, adamw.learning_rate = 0.1 / (step + 1), 0.02 / (step + 1)
        kept = {name: array * (1 - 0.1 / (step + 1) * weight_decay) for name, array in weight.items()}
        weight = muon.apply_gradients({"layer.weight": found["layer.weight"]}, kept)
        rest = adamw.apply_gradients({name: found[name] for name in rest}, rest)
    for name, array in {**weight, **rest}.items():
        assert mx.allclose(flat(model.parameters())[name], array, atol=1e-6), name


def mlx_tree(arrays: dict[str, mx.array]) -> Any:
    return tree_unflatten(list(arrays.items()))


def test_one_update_by_hand() -> None:
    """A gradient of one direction, u·vᵀ, has the orthogonal factor u·vᵀ / |u||v|; five steps of Newton and
    Schulz bring its singular value 1 to between 0.68 and 1.13. Rows 6 > columns 4: times √(6/4)."""
    model = Small()
    before = model.layer.weight
    optimizer = Optimizer(config_of(), model)
    u, v = mx.array([3.0, 0, 0, 0, 0, 4.0])[:, None], mx.array([0, 2.0, 0, 0])[None]
    gradients = {name: mx.zeros_like(array) for name, array in flat(model.parameters()).items()}
    optimizer.step(model, mlx_tree({**gradients, "layer.weight": u @ v}), 1.0, learning_rate=0.1)
    moved = before - model.layer.weight
    singular = 1.0
    for _ in range(5):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    assert 0.68 < singular < 1.13
    assert mx.allclose(moved, 0.1 * math.sqrt(1.5) * singular * (u @ v) / 10, atol=1e-6)
    assert mx.array_equal(model.embed.weight, Small().embed.weight)


def test_it_keeps_half_the_state() -> None:
    model = Small()
    state = set(Optimizer(config_of(), model).arrays())
    assert {name for name in state if "layer.weight" in name} == {"rule.layer.weight.v"}
    assert {name for name in state if "embed" in name} == {"rule.embed.weight.m", "rule.embed.weight.v"}


def test_the_other_rate_follows_the_schedule() -> None:
    rule: Any = make_rule(config_of(adamw_learning_rate=0.02), Small())
    rule.learning_rate = 0.05
    assert rule.muon.learning_rate.item() == pytest.approx(0.05)
    assert rule.adamw.learning_rate.item() == pytest.approx(0.01)
    rule = make_rule(config_of(), Small())
    assert rule.adamw.learning_rate.item() == pytest.approx(0.1)


def test_a_saved_state_goes_on() -> None:
    """Three updates, and two with the state saved and restored between: the same bits."""
    results = []
    for broken in (False, True):
        model = Small()
        optimizer = Optimizer(config_of(weight_decay=0.1), model)
        for step in range(3):
            if broken and step == 2:
                saved = optimizer.arrays()
                optimizer = Optimizer(config_of(weight_decay=0.1), model)
                optimizer.restore(saved)
            optimizer.step(model, mlx_tree(gradients_of(model, step)), 1.0, learning_rate=0.1)
        results.append({name: array.tolist() for name, array in flat(model.parameters()).items()})
    assert results[0] == results[1]
