"""The share of tokens that sampler and loss send to other experts."""

from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.engine.guards import routing_difference as module
from grpo_cli.engine.guards.routing_difference import routing_difference
from grpo_cli.models.batch_plan import BatchPlan
from tests.support.kind_trials import make

PLANS = [BatchPlan(), BatchPlan(False, "joined"), BatchPlan(False, "single", trained="single")]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["qwen3_moe", "olmoe"])
def test_none_differ_in_float32(kind: str, plan: BatchPlan) -> None:
    assert routing_difference(make(kind), plan) == 0.0


def test_models_without_experts_have_no_share() -> None:
    assert routing_difference(make("llama"), BatchPlan()) is None


def test_the_share_is_that_of_the_tokens_and_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 32 tokens get another expert in the sampler, in one of two layers."""
    real, calls = module.by_token, []

    def changed(found: list[mx.array], rows: int) -> mx.array:
        calls.append(rows)
        experts: Any = real(found, rows)
        if len(calls) == 1:
            experts[0, 3:5, 0] = 99
        return experts

    monkeypatch.setattr(module, "by_token", changed)
    share = routing_difference(make("qwen3_moe"), BatchPlan())
    assert share == pytest.approx(2 / (2 * 3 * 32))
