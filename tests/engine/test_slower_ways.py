"""Every fast path that is off has its notice, and none that is on."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from grpo_cli.engine import slower_ways as told
from grpo_cli.engine.rollout.shared_prompt import reads_in_groups
from grpo_cli.engine.slower_ways import slower_ways
from grpo_cli.engine.update.chunked_logits import find_head
from grpo_cli.engine.update.forward import ForwardPlan
from grpo_cli.models.batch_plan import BatchPlan
from tests.support.random_models import llama_policy


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return llama_policy().model


@pytest.fixture(scope="module")
def whole(model: nn.Module) -> ForwardPlan:
    return ForwardPlan(head=find_head(model))


def test_nothing_is_said_of_fast_ones(model: nn.Module, whole: ForwardPlan) -> None:
    assert slower_ways(model, BatchPlan(), whole, True, None) == []
    assert slower_ways(model, BatchPlan(), whole, True, 0.0) == []


def test_each_slower_way_is_told(
    model: nn.Module, whole: ForwardPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    equal, shared, experts = slower_ways(
        model, BatchPlan(share_prefix=False, sampled="equal"), whole, True, 0.0312
    )
    assert "of prompts of one length" in equal
    assert shared == told.NO_SHARED_PROMPT
    assert "other experts for 3.1% of" in experts
    (single,) = slower_ways(model, BatchPlan(share_prefix=False, sampled="single"), whole, False, None)
    assert "one by one" in single
    assert slower_ways(model, BatchPlan(), ForwardPlan(), True, None) == [told.NO_HEAD]
    monkeypatch.setattr(told, "reads_in_groups", lambda _: False)
    assert slower_ways(model, BatchPlan(), whole, True, None) == [told.NO_GROUPS]


def test_large_logits_keep_attention_in_groups() -> None:
    """Rounding grows with the logits: a hundred times larger ones differ by more than 1e-4, and are right."""
    model = llama_policy().model
    head = model.lm_head if "lm_head" in model else model.model.embed_tokens
    head.weight = head.weight * 3000
    assert mx.abs(model(mx.array([[1, 2, 3]]))).max().item() > 100  # type: ignore[operator]
    assert reads_in_groups(model)
