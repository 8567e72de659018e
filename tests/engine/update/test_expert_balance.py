"""The balance of experts, by hand and as a part of the loss, and what is recorded of a mixture's routing."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.update.expert_balance import Routing, mixtures, recorded_routing
from grpo_cli.engine.update.forward import ForwardPlan
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.engine.update.objective import Objective, microbatch_loss
from grpo_cli.models.tree import flat
from tests.support.kind_trials import make
from tests.support.microbatches import microbatch

MIXTURES = ["qwen3_moe", "mixtral", "gpt_oss", "olmoe", "qwen2_moe"]


def transformers_formula(scores: list[np.ndarray], k: int, mask: np.ndarray) -> float:
    """`load_balancing_loss_func` of transformers' Mixtral, spelled out: scores (tokens, E) of each layer."""
    experts = scores[0].shape[-1]
    logits = np.concatenate(scores)
    weights = np.tile(mask.reshape(-1), len(scores))[:, None]
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.argsort(-probabilities, axis=-1)[:, :k]
    one_hot = np.eye(experts)[chosen]  # (tokens, k, E)
    tokens_per_expert = (one_hot * weights[..., None]).sum(0) / weights.sum()  # (k, E)
    router = (probabilities * weights).sum(0) / weights.sum()  # (E,)
    return float((tokens_per_expert * router[None]).sum() * experts)


def test_even_and_uneven_loads_by_hand() -> None:
    mask = mx.ones((1, 4))
    even = Routing([[mx.zeros((1, 4, 4))]], [[mx.array([[[0], [1], [2], [3]]])]])
    assert even.balance(mask).item() == pytest.approx(1.0)
    sure = mx.array([[[20.0, 0.0, 0.0, 0.0]] * 4])
    one = Routing([[sure]], [[mx.zeros((1, 4, 1), dtype=mx.int32)]])
    assert one.balance(mask).item() == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("kind", MIXTURES)
def test_a_model_has_the_balance_of_transformers(kind: str) -> None:
    model, ids = make(kind), mx.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 1, 2, 3]])
    expected = model(ids)
    mask = mx.array([[0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]])
    with recorded_routing(model) as routing:
        found = model(ids)
    assert mx.array_equal(found, expected)
    assert mx.array_equal(model(ids), expected)
    scores = [np.array(calls[-1]).reshape(12, -1) for calls in routing.scores]
    assert len(scores) == 2
    by_hand = transformers_formula(scores, 2, np.array(mask))
    assert routing.balance(mask).item() == pytest.approx(by_hand, rel=1e-5)


def batch(**changes: Any) -> Any:
    return microbatch([[3, 4, 5], [6, 7, 8, 9, 1]], [0, 0, 1, 1, 1], [5, 2, 3, 4, 1], **changes)


def objective(coefficient: float, plan: ForwardPlan) -> Objective:
    return Objective(Config(loss_type="dapo", router_aux_loss_coef=coefficient), plan)


PLANS = [ForwardPlan(), ForwardPlan(together="joined"), ForwardPlan(share_prefix=False)]


@pytest.mark.parametrize("plan", PLANS, ids=["mixed", "joined", "whole"])
def test_the_loss_has_the_balance_of_the_trained_tokens(plan: ForwardPlan) -> None:
    """Single rows without a cache, by the formula spelled out; each way of computing gives the same."""
    model, made = make("qwen3_moe"), batch()
    scores: list[list[np.ndarray]] = [[], []]
    for row, targets, mask in zip(made.rows, made.targets, made.loss_mask, strict=True):
        prompt, length = made.prompts[row], int(mask.sum())
        ids = mx.array([prompt + targets.tolist()[:length]])
        with recorded_routing(model) as routing:
            model(ids)
        for layer, calls in enumerate(routing.scores):
            scores[layer].append(np.array(calls[-1])[0, len(prompt) - 1 : -1])
    layers = [np.concatenate(rows) for rows in scores]
    by_hand = transformers_formula(layers, 2, np.ones(len(layers[0])))
    loss, measured = microbatch_loss(model, made, objective(0.5, plan))
    without, _ = microbatch_loss(model, made, objective(0.0, plan))
    assert measured.totals[2].item() == pytest.approx(by_hand, rel=1e-4)
    assert (loss - without).item() == pytest.approx(0.5 * by_hand, rel=1e-4)


def test_its_gradient_is_that_of_finite_differences_and_adds_up_over_microbatches() -> None:
    model, made = make("qwen3_moe"), batch()
    mask, plan = made.loss_mask, ForwardPlan()
    with_balance, result = accumulate(model, [made], objective(0.5, plan))
    without, _ = accumulate(model, [made], objective(0.0, plan))
    name = "model.layers.0.mlp.gate.weight"
    slope = (flat(with_balance)[name] - flat(without)[name])[2, 5].item()
    module, router, _ = mixtures(model)[0]
    weight, step = module[router].weight, 1e-2
    moved = []
    for change in (step, -step):
        module[router].weight = weight.at[2, 5].add(change)
        moved.append(microbatch_loss(model, made, objective(0.5, plan))[1].totals[2].item())
    module[router].weight = weight
    assert slope == pytest.approx(0.5 * (moved[0] - moved[1]) / (2 * step), rel=0.05)
    assert abs(slope) > 1e-6
    assert result.router_aux_loss == pytest.approx(2.0, abs=0.3)
    assert mask.sum().item() == 15


def test_models_without_a_linear_router_have_no_mixtures() -> None:
    assert mixtures(make("llama")) == mixtures(make("deepseek_v3")) == []
    assert isinstance(mixtures(make("mixtral"))[0][0], nn.Module)
