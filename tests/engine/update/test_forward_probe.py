"""The probe before a run: which ways of computing rows together are right for a model, or that none is."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import llama

from grpo_cli.engine import setup
from grpo_cli.engine.evaluation.evaluate import evaluate_model
from grpo_cli.engine.memory.out_of_memory import RowLimit
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.train import train
from grpo_cli.engine.update import forward_probe as probe
from grpo_cli.engine.update.forward_probe import reference, sampling_plan, training_plan
from grpo_cli.errors import ModelError
from grpo_cli.models.batch_plan import BatchPlan
from grpo_cli.models.load import Policy
from grpo_cli.models.tree import flat
from tests.support.kind_trials import PROMPTS, Endless, deviation, make, planned
from tests.support.random_models import llama_policy
from tests.support.small_runs import small

WHOLE = BatchPlan(share_prefix=False)
EQUAL = BatchPlan(share_prefix=False, sampled="equal")


@pytest.mark.parametrize(
    ("kind", "plan"),
    [
        ("llama", BatchPlan()),
        ("qwen3_moe", BatchPlan()),
        ("gemma2, as many keys as queries", BatchPlan()),
        ("llama, sliding", WHOLE),
        ("ministral3", WHOLE),  # sampled with padding rightly; a shared prompt's gradient is NaN
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


def test_what_is_right_with_its_cache_only_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        ModelError, match=r"^gemma3n cannot be tuned here: in sampling .*\(mixed rows: off by \d"
    ) as error:
        planned(make("gemma3n"))
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


@pytest.mark.parametrize("kind", ["mamba2", "qwen3_5"])
def test_layers_that_keep_a_state_are_refused_by_name(kind: str) -> None:
    with pytest.raises(ModelError, match=rf"^{kind} has layers that keep a state \(ArraysCache\)"):
        planned(make(kind))


def test_they_are_refused_before_anything_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From config.json: neither rewards nor data nor weights are looked at."""
    model = make("mamba2")
    config = {"model_type": "mamba2", **vars(model.args)}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), flat(model.parameters()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(setup, "load_rewards", lambda *_: pytest.fail("rewards were loaded"))
    settings = small(tmp_path, model_name=str(tmp_path))
    for begin in (
        train,
        lambda config: evaluate_model(str(tmp_path), config, Sampling(max_new_tokens=4)),
    ):
        with pytest.raises(ModelError, match="has layers that keep a state"):
            begin(settings)


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
    assert training_plan(alone, share_prefix=True) == BatchPlan(False, "single", "single")
    policy = Policy(
        model=alone,
        tokenizer=Endless(),
        config={},
        path=Path(),
        source="random",
        plan=BatchPlan(False, "single", "single"),
    )  # type: ignore[arg-type]
    assert deviation(alone, policy.plan) < 1e-4


@pytest.mark.parametrize("sampled", ["equal", "single"])
@pytest.mark.parametrize("capacity", [None, 2])
def test_rows_of_equal_length_are_sampled_as_rows_of_any(sampled: Any, capacity: int | None) -> None:
    """The same numbers give the same completions, however the rows are put together."""
    model = make("llama")
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


def test_the_reference_is_single_rows_by_hand() -> None:
    model = make("llama")
    batch = probe.probe_batch()
    found = reference(model, batch)
    prompt, targets = batch.prompts[1], batch.targets[2].tolist()
    logits = model(mx.array([prompt + targets]))[0, len(prompt) - 1 : -1]
    by_hand = nn.log_softmax(logits)[mx.arange(3), mx.array(targets)]
    assert found[2].tolist() == pytest.approx(by_hand.tolist(), abs=1e-5)
