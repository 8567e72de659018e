"""The probe before a run: which ways of computing rows together are right for a model, or that none is."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import llama, mamba2

from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.update import forward_probe as probe
from grpo_cli.engine.update.forward_probe import reference, sampling_plan, training_plan
from grpo_cli.errors import ModelError
from grpo_cli.models.batch_plan import BatchPlan
from grpo_cli.models.load import Policy
from tests.support.kind_trials import PROMPTS, Endless, compare, deviation, make, moved, planned, unrepaired
from tests.support.model_kinds import WINDOW
from tests.support.random_models import llama_policy

EQUAL = BatchPlan(share_prefix=False, sampled="equal")


@pytest.mark.parametrize(
    ("kind", "plan"),
    [
        ("llama", BatchPlan()),
        ("qwen3_moe", BatchPlan()),
        ("gemma2, as many keys as queries", BatchPlan()),
        ("llama, sliding", BatchPlan()),
        ("ministral3", BatchPlan(shared="joined")),  # a padded prompt gives a NaN gradient
        ("mamba2", BatchPlan()),  # its layers keep a state, from which padding is hidden by a mask
        ("qwen3_5", BatchPlan()),
        ("gemma2", EQUAL),
        ("gpt_bigcode", EQUAL),
        ("afm7", EQUAL),
    ],
)
def test_the_quickest_way_that_is_right(kind: str, plan: BatchPlan) -> None:
    model = make(kind)
    assert planned(model) == plan
    assert deviation(model, plan) < 1e-4
    assert sampling_plan(model).sampled == plan.sampled


@pytest.mark.parametrize(
    ("kind", "key"), [("llama, sliding", "sliding_window"), ("mimo_v2_flash", "sliding_window_size")]
)
def test_a_plan_found_within_the_window_is_right_beyond_it(kind: str, key: str) -> None:
    """A real window is longer than the probe's prompts; here the prompts are longer than the window."""
    assert max(map(len, PROMPTS)) > WINDOW
    plan = planned(make(kind, **{key: 1024}))
    assert plan == planned(make(kind))
    assert max(compare(make(kind), plan)) < 1e-4  # logprobs and gradient, with plain autograd


def test_what_is_right_with_its_cache_only_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        ModelError, match=r"^gemma3n cannot be tuned here: in sampling .*\(mixed rows: off by \d"
    ) as error:
        planned(moved(unrepaired("gemma3n")))
    assert "random" not in error.value.message
    assert error.value.trouble == "model-forward"


def test_equal_logits_and_rounding_are_no_dropout() -> None:
    model = llama_policy().model
    model.model.embed_tokens.weight = mx.zeros_like(model.model.embed_tokens.weight)
    assert mx.abs(model(mx.array([[5, 6]]))).max().item() == 0
    assert sampling_plan(model).sampled == "mixed"
    expected = mx.zeros((2, 3))
    by_rounding = probe.refusal(model, "sampling", {}, expected, expected + 1e-6)
    by_chance = probe.refusal(model, "sampling", {}, expected, expected + 0.5)
    assert ("dropout" in by_rounding.message, "dropout" in by_chance.message) == (False, True)


class Maskless(mamba2.Model):
    """Reads left padding as text, as models do whose states know no mask."""

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        for layer in cache or []:
            layer.left_padding = None
        logits: mx.array = super().__call__(inputs, cache)
        return logits


def test_a_state_without_a_mask_reads_prompts_of_each_length_by_themselves() -> None:
    model = make("mamba2")
    maskless = Maskless(model.args)
    maskless.update(model.parameters())
    plan = training_plan(maskless, share_prefix=True)
    assert plan == BatchPlan(sampled="joined", shared="joined")
    assert deviation(maskless, plan) < 1e-4


def test_what_damages_memory_is_not_tried() -> None:
    with pytest.raises(ModelError, match=r"^phi3small is not run on a CPU"):
        planned(make("phi3small"))


class Padless(llama.Model):
    """Wrong wherever a batch has more than one row, as a model may be that was never run in one."""

    def __call__(self, inputs: mx.array, cache: Any = None, **options: Any) -> mx.array:
        logits = super().__call__(inputs, cache, **options)
        return logits if len(inputs) == 1 else logits[..., ::-1]


def test_rows_one_by_one_where_nothing_else_is_right() -> None:
    model = llama_policy().model
    alone = Padless(model.args)
    alone.update(model.parameters())
    assert training_plan(alone, share_prefix=True) == BatchPlan(False, "single", trained="single")
    policy = Policy(
        model=alone,
        tokenizer=Endless(),
        config={},
        path=Path(),
        source="random",
        plan=BatchPlan(False, "single", trained="single"),
    )  # type: ignore[arg-type]
    assert deviation(alone, policy.plan) < 1e-4


@pytest.mark.parametrize("sampled", ["joined", "equal", "single"])
@pytest.mark.parametrize("capacity", [None, 2])
@pytest.mark.parametrize("kind", ["llama", "mamba2", "qwen3_5"])
def test_rows_of_equal_length_are_sampled_as_rows_of_any(
    kind: str, sampled: Any, capacity: int | None
) -> None:
    """The same numbers give the same completions, however the rows are put together."""
    model = make(kind)
    found = []
    for plan in (BatchPlan(), BatchPlan(sampled=sampled)):
        mx.random.seed(5)
        policy = Policy(model=model, tokenizer=Endless(), config={}, path=Path(), source="random", plan=plan)  # type: ignore[arg-type]
        prompts = [*PROMPTS, [3], PROMPTS[0]]
        found.append(generate(policy, prompts, 2, Sampling(max_new_tokens=4), limit=RowLimit(capacity)))
    for mixed, other in zip(*found, strict=True):
        assert [one.token_ids for one in mixed] == [one.token_ids for one in other]
        for one, same in zip(mixed, other, strict=True):
            assert one.logprobs == pytest.approx(same.logprobs, abs=1e-5)


def test_a_nan_gradient_is_no_right_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama_policy().model
    real = probe.with_gradient

    def broken(model: nn.Module, logprobs: Any) -> Any:
        value, found = real(model, logprobs)
        is_reference = logprobs.__name__ == "<lambda>"
        return value, found if is_reference else {name: array * mx.nan for name, array in found.items()}

    monkeypatch.setattr(probe, "with_gradient", broken)
    with pytest.raises(ModelError, match=r"in the update .* its gradient by nan of its norm"):
        training_plan(model, share_prefix=True)


class Gradientless(llama.Model):
    """Chooses by indices that depend on its weights, as models do that were written for sampling."""

    def __call__(self, inputs: mx.array, cache: Any = None, **options: Any) -> mx.array:
        logits = super().__call__(inputs, cache, **options)
        order = mx.argpartition(logits, 3, axis=-1)
        return mx.put_along_axis(logits, order, mx.take_along_axis(logits, order, axis=-1), axis=-1)


def test_a_model_without_a_gradient_is_refused_by_name() -> None:
    model = llama_policy().model
    plain = Gradientless(model.args)
    plain.update(model.parameters())
    assert sampling_plan(plain).sampled == "mixed"
    with pytest.raises(ModelError, match=r"has no gradient: ValueError: .*VJP"):
        training_plan(plain, share_prefix=True)


def test_the_reference_is_single_rows_by_hand() -> None:
    model = make("llama")
    batch = probe.probe_batch()
    found = reference(model, batch)
    prompt, targets = batch.prompts[1], batch.targets[2].tolist()
    logits = model(mx.array([prompt + targets]))[0, len(prompt) - 1 : -1]
    by_hand = nn.log_softmax(logits)[mx.arange(3), mx.array(targets)]
    assert found[2].tolist() == pytest.approx(by_hand.tolist(), abs=1e-5)
