"""Logits in slices: the same numbers and gradients as all at once, for models of every kind."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from grpo_cli.engine.update import chunked_logits as heads
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.chunked_logits import find_head
from grpo_cli.engine.update.forward import ForwardPlan, token_logprobs
from grpo_cli.engine.update.forward_probe import check_kind
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.engine.update.objective import Objective
from grpo_cli.models import nanochat_v2
from grpo_cli.models.adapters import LoRA, add_adapters
from tests.support.kind_trials import BREAKDOWNS, make, not_here
from tests.support.model_kinds import KINDS
from tests.support.small_architectures import MODELS, llama_of, model_of, nanochat_v2_model
from tests.support.steps import objective_of


def batch() -> Microbatch:
    mx.random.seed(4)
    targets = mx.random.randint(0, 48, (4, 5))
    mask = mx.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).astype(mx.bool_)
    return Microbatch(
        prompts=[[3, 4, 5], [6, 7]],
        rows=[0, 0, 1, 1],
        targets=targets,
        loss_mask=mask,
        old_logprobs=mx.full((4, 5), -3.0),
        advantages=mx.array([[1.0], [-1.0], [0.5], [-0.5]]),
        weights=mx.full((4, 1), 1 / 14),
    )


def gradients(model: nn.Module, objective: Objective) -> tuple[dict[str, mx.array], float]:
    found, result = accumulate(model, [batch()], objective)
    return dict(tree_flatten(found)), result.loss


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("share_prefix", [True, False])
def test_slices_change_no_gradient(kind: str, share_prefix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind)
    head = find_head(model)
    assert head is not None
    settings: dict[str, Any] = {"share_prefix": share_prefix, "entropy_coeff": 0.3}
    whole, loss = gradients(model, objective_of("dapo", 0.7, 0.2, 0.2, 0.0, **settings))
    monkeypatch.setattr(heads, "SLICE", 3 * 48)  # three tokens of the twenty at once
    monkeypatch.setattr("grpo_cli.engine.update.forward.LOGITS_AT_ONCE", 3 * 48)
    sliced, sliced_loss = gradients(model, objective_of("dapo", 0.7, 0.2, 0.2, 0.0, head=head, **settings))
    assert sliced_loss == pytest.approx(loss, rel=1e-5)
    assert sliced.keys() == whole.keys()
    norm = sum(value.square().sum().item() for value in whole.values()) ** 0.5
    off = sum((sliced[name] - whole[name]).square().sum().item() for name in whole) ** 0.5
    assert norm > 0.01
    assert off < (1e-6 if kind == "nanochat_v2" else 1e-5) * norm


def test_slices_with_adapters_have_their_gradient_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama, tied")
    add_adapters(model, LoRA(rank=2))
    head = find_head(model)
    plain, _ = gradients(model, objective_of("dapo", 1.0, 0.2, 0.2, 0.0))
    monkeypatch.setattr("grpo_cli.engine.update.forward.LOGITS_AT_ONCE", 48)
    monkeypatch.setattr(heads, "SLICE", 48)
    sliced, _ = gradients(model, objective_of("dapo", 1.0, 0.2, 0.2, 0.0, head=head))
    assert sliced.keys() == plain.keys()
    assert all("lora" in name for name in sliced)
    for name in plain:
        assert mx.allclose(sliced[name], plain[name], rtol=1e-4, atol=1e-7).item(), name
    assert max(mx.abs(value).max().item() for value in sliced.values()) > 1e-4


@pytest.mark.parametrize("kind", ["nanochat", "nanochat_v2"])
def test_sliced_logprobs_are_those_of_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind)
    whole = token_logprobs(model, batch(), 0.7)
    monkeypatch.setattr("grpo_cli.engine.update.forward.LOGITS_AT_ONCE", 0)
    monkeypatch.setattr(heads, "SLICE", 7 * 48)
    sliced = token_logprobs(model, batch(), 0.7, ForwardPlan(head=find_head(model)))
    assert mx.abs(sliced - whole).max().item() < 1e-5


def test_the_head_s_weights() -> None:
    assert find_head(llama_of(False)).weights == ("lm_head.weight",)  # type: ignore[union-attr]
    assert find_head(llama_of(True)).weights == ("model.embed_tokens.weight",)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_knows_every_weight_that_it_uses(kind: str) -> None:
    """An embedding that is the output matrix, too, has a name of its own in every family of models."""
    try:
        model = make(kind)
        check_kind(model)
        head = find_head(model)
    except (SystemExit, *BREAKDOWNS) as error:
        pytest.skip(not_here(error) or str(error)[:80])
    if head is None:
        pytest.skip("its head cannot be separated")
    hidden = mx.stop_gradient(getattr(model, head.trunk)(mx.array([[1, 2, 3]])))

    def total(weights: Any) -> mx.array:
        model.update(weights)
        logits = head.logits(model, hidden).astype(mx.float32)
        return (logits * mx.random.normal(logits.shape, key=mx.random.key(0))).sum()

    gradient = dict(tree_flatten(mx.grad(total)(model.trainable_parameters())))
    used = {name for name, array in gradient.items() if mx.abs(array).max().item() > 0}  # type: ignore[operator]
    assert used <= set(head.weights)
    if not used:  # the trunk computes the logits
        assert mx.array_equal(head.logits(model, hidden), hidden).item()


def test_the_current_nanochat_s_trunk_is_a_method() -> None:
    model: Any = model_of("nanochat_v2")
    head = find_head(model)
    assert head is not None
    ids = mx.array([[5, 6, 7, 8], [9, 1, 2, 3]])
    hidden = model.hidden_states(ids)
    assert hidden.shape == (2, 4, 32)
    assert mx.abs(head.logits(model, hidden) - model(ids)).max().item() < 1e-6
    assert (head.trunk, head.weights, head.vocabulary) == ("hidden_states", ("lm_head.weight",), 48)


class Elsewhere(nanochat_v2.Model):
    """A model that does something between its trunk and its head."""

    def __call__(self, inputs: mx.array, cache: list[Any] | None = None) -> mx.array:
        return self.logits_of(2.0 * self.lm_head.weight[inputs] + self.hidden_states(inputs, cache))


def test_a_model_that_does_not_come_apart_has_none() -> None:
    assert find_head(nanochat_v2_model(Elsewhere)) is None
