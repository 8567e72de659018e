"""Runs whose rollouts come from a quantised copy: exact bookkeeping, and what a deep model learns."""

import gc
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import events, setup
from grpo_cli.engine.collect_rollouts import collect_rollouts
from grpo_cli.engine.dry_run import dry_run
from grpo_cli.engine.grpo.importance_sampling import Correction
from grpo_cli.engine.guards.logprob_mismatch import Deviation
from grpo_cli.engine.guards.nonfinite import first_broken
from grpo_cli.engine.memory.check import needs_of
from grpo_cli.engine.memory.estimate import steps_down
from grpo_cli.engine.rollout import generate
from grpo_cli.engine.rollout.quantized_policy import RolloutPolicy
from grpo_cli.engine.run_dir.run_state import read_state, write_state
from grpo_cli.engine.train import fill_buffer, train
from grpo_cli.engine.update.batch import TrainingSequence, pad
from grpo_cli.engine.update.forward import token_logprobs
from grpo_cli.engine.update.gradient import Gradients, accumulate
from grpo_cli.engine.update_policy import make_batches, remember_old, update_policy
from grpo_cli.errors import ModelError, TrainingError
from grpo_cli.models.load import load_policy
from grpo_cli.models.quantized import QuantizedCopy, Rounding, copy_bytes, rounded
from grpo_cli.models.tree import flat
from grpo_cli.types import RolloutGroup
from tests.support.deep_nanochat import VOCABULARY, deep_nanochat
from tests.support.prepared_runs import movement, prepared
from tests.support.random_models import rollout
from tests.support.small_runs import SHORT, STEP_KEYS, lines, small
from tests.support.steps import objective_of, scored_groups

QUANTIZED: dict[str, Any] = {"quantize_for_rollouts": True, "bits": 3, "group_size": 32}
IMPORTANCE = {"importance_sampling_ratio_mean", "importance_sampling_ratio_max", "importance_sampling_capped"}


def notices(seen: list[events.Event]) -> list[str]:
    return [event.text for event in seen if isinstance(event, events.Notice)]


def everyone_counts(groups: list[RolloutGroup]) -> list[RolloutGroup]:
    for one in groups:
        for index, item in enumerate(one.rollouts):
            item.advantage = 1.0 if index % 2 == 0 else -1.0
    return groups


# --- what is sampled, remembered and logged --------------------------------------------------------------


def test_completions_are_sampled_from_the_rounded_weights(tmp_path: Path) -> None:
    """Their logprobs are those of a policy whose every matrix was rounded here, and not the policy's."""
    run, batches = prepared(tmp_path, **QUANTIZED)
    rounding = Rounding(3, 32).settings
    mine = load_policy("tiny", "float32")
    mine.model.load_weights(
        [(n, rounded(a, rounding) if a.ndim == 2 else a) for n, a in flat(mine.model.parameters()).items()]
    )
    for batch in batches:
        assert batch.sampler_logprobs is not None
        theirs = token_logprobs(mine.model, batch, 3.0)
        own = token_logprobs(run.policy.model, batch, 3.0)
        gap = mx.where(batch.loss_mask, mx.abs(theirs - batch.sampler_logprobs), 0.0)
        assert gap.max().item() < 1e-4
        assert mx.where(batch.loss_mask, mx.abs(own - batch.sampler_logprobs), 0.0).max().item() > 1e-3


def test_the_first_ratio_is_one_and_the_log_has_the_weights(tmp_path: Path) -> None:
    run, batches = prepared(tmp_path, **QUANTIZED, clip_eps=1e-6)
    own = [token_logprobs(run.policy.model, batch, 3.0) for batch in batches]
    weights = [
        math.exp(float(mine - theirs))
        for batch, logprobs in zip(batches, own, strict=True)
        for item, row in zip(batch.rollouts, logprobs.tolist(), strict=True)  # type: ignore[arg-type]
        for theirs, mine in zip(item.logprobs, row, strict=False)  # type: ignore[arg-type]
    ]
    line = update_policy(run, 1, batches, is_on_policy=True)
    assert line["clip_ratio"] == 0.0  # a ratio of anything but exactly 1 would be clipped
    assert line["importance_sampling_ratio_mean"] == pytest.approx(sum(weights) / len(weights), rel=1e-4)
    assert line["importance_sampling_ratio_max"] == pytest.approx(max(weights), rel=1e-4)
    assert line["importance_sampling_capped"] == pytest.approx(sum(w > 2 for w in weights) / len(weights))
    assert line["ratio_deviation"] == pytest.approx(
        sum(abs(math.log(w)) for w in weights) / len(weights), rel=1e-3
    )


def test_the_log_of_a_run(tmp_path: Path) -> None:
    seen: list[events.Event] = []
    config = small(tmp_path, **{**SHORT, **QUANTIZED, "max_steps": 2})
    train(config, seen.append)
    for line in lines(config.run_dir):
        assert set(line) == STEP_KEYS - {"rewards/correctness"} | IMPORTANCE | {"rewards/mean_letter"}
        assert line["ratio_deviation"] > 1e-4
    assert sum("this CPU computes with the rounded weights" in text for text in notices(seen)) == 1
    plain = small(tmp_path, run_name="plain", **{**SHORT, "max_steps": 1})
    train(plain)
    assert not IMPORTANCE & set(lines(plain.run_dir)[0])


def test_a_step_that_teaches_nothing_has_its_keys(tmp_path: Path) -> None:
    run, _ = prepared(tmp_path, **QUANTIZED)
    line = update_policy(run, 1, [])
    assert {line[name] for name in IMPORTANCE} == {None}


def test_the_copy_follows_every_update(tmp_path: Path) -> None:
    run, batches = prepared(tmp_path, **QUANTIZED)
    first = run.sampler.current().model
    before = first(mx.array([[1, 2, 3]]))
    assert mx.array_equal(run.sampler.current().model(mx.array([[1, 2, 3]])), before)
    update_policy(run, 1, batches)
    now = run.sampler.current().model(mx.array([[1, 2, 3]]))
    fresh = QuantizedCopy(run.policy.model, Rounding(3, 32), dequantize=True).model
    assert mx.array_equal(now, fresh(mx.array([[1, 2, 3]])))
    assert not mx.array_equal(now, before)


def test_weights_are_the_same_in_every_update_on_the_same_rollouts(tmp_path: Path) -> None:
    """w is of the policy as it was; only the ratio follows the policy."""
    run, batches = prepared(tmp_path, **QUANTIZED, num_iterations=2, learning_rate=0.5)
    first, second = update_policy(run, 1, batches, is_on_policy=True), update_policy(run, 2, batches)
    assert first["importance_sampling_ratio_mean"] == pytest.approx(second["importance_sampling_ratio_mean"])
    assert first["importance_sampling_ratio_max"] == second["importance_sampling_ratio_max"]
    assert (first["clip_ratio"], second["clip_ratio"] > 0) == (0.0, True)


def test_weights_survive_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    run, _ = prepared(tmp_path, **QUANTIZED, num_iterations=2)
    groups = everyone_counts(scored_groups(run))
    batches = make_batches(run, groups)
    update_policy(run, 1, batches)
    run.state.random_state = [1, 2]
    write_state(tmp_path, run.state, groups)
    for batch, other in zip(make_batches(run, read_state(tmp_path)[1]), batches, strict=True):
        assert batch.sampler_logprobs is not None
        assert other.sampler_logprobs is not None
        assert mx.array_equal(batch.sampler_logprobs, other.sampler_logprobs)
        assert mx.array_equal(batch.old_logprobs, other.old_logprobs)
        assert not batch.old_is_current


def test_later_parts_of_a_generation_remember_the_policy_that_was_copied(tmp_path: Path) -> None:
    """steps_per_generation = 2: the second part's old logprobs are those of before the first update."""
    run, _ = prepared(tmp_path, **QUANTIZED, steps_per_generation=2, learning_rate=0.5)
    fill_buffer(run, collect_rollouts(run, 0))
    first, second = run.buffer.waiting
    assert first.batches is None  # its own forward gives them
    if not second.batches:  # no group that teaches: give it some
        second.batches = make_batches(run, everyone_counts(second.groups))
        remember_old(run, second.batches)
    before = [token_logprobs(run.policy.model, batch, 3.0) for batch in second.batches]
    update_policy(run, 1, make_batches(run, everyone_counts(first.groups)))
    for batch, logprobs in zip(second.batches, before, strict=True):
        assert not batch.old_is_current
        assert mx.allclose(batch.old_logprobs, mx.where(batch.loss_mask, logprobs, 0.0), atol=1e-6)
        moved = token_logprobs(run.policy.model, batch, 3.0)
        assert mx.where(batch.loss_mask, mx.abs(moved - logprobs), 0.0).max().item() > 1e-4
        assert [item.old_logprobs != [] for item in batch.rollouts] == [True] * len(batch.rollouts)


@pytest.mark.parametrize("lora", [0, 2])
def test_only_the_sampling_is_rounded(tmp_path: Path, lora: int) -> None:
    """With weights of 1 (the sampler is the policy): the update of a run without a copy."""
    changes = {"num_iterations": 2, "lora_rank": lora}
    run, batches = prepared(tmp_path, **changes)
    mine, _ = prepared(tmp_path, **QUANTIZED, **changes)
    groups = [RolloutGroup(*[getattr(g, name) for name in ("example", "prompt_ids", "rollouts")])
              for g in scored_groups(run)]  # fmt: skip
    everyone_counts(groups)
    batches = make_batches(mine, groups)
    for batch in batches:
        batch.sampler_logprobs = token_logprobs(mine.policy.model, batch, 3.0)
    found = movement(mine, batches)
    for item in [item for one in groups for item in one.rollouts]:
        item.old_logprobs = []
    expected = movement(run, make_batches(run, groups))
    assert all(mx.allclose(found[name], expected[name], atol=1e-7) for name in expected)
    assert any(mx.abs(array).max().item() > 1e-5 for array in expected.values())


# --- what is wrong is told -------------------------------------------------------------------------------


def rollout_policy(seen: list[events.Event]) -> RolloutPolicy:
    config = Config(quantize_for_rollouts=True, bits=2, group_size=32)
    return RolloutPolicy(config, load_policy("tiny"), seen.append)


def far(mean: float) -> Deviation:
    return Deviation(mean=mean, most=9.0, tokens=40, place=3, token_id=65, sampled=-1.25, trained=-1.5)


def test_a_copy_that_is_far_away() -> None:
    seen: list[events.Event] = []
    policy = rollout_policy(seen)
    policy.check(far(0.9))
    assert seen == []
    policy.check(far(1.1))
    (text,) = notices(seen)
    assert text.startswith("the quantized copy is far from the policy: over 40 sampled tokens the logprobs")
    assert "its copy of 2 bits differ by 1.1 nats on average" in text
    with pytest.raises(
        TrainingError, match=r"^The quantized copy behaves like another model: over 40"
    ) as error:
        policy.check(far(3.1))
    assert "`bits = 8`" in error.value.hint
    assert error.value.trouble == "quantised-rollouts"


def test_a_run_with_a_broken_copy_stops_before_its_first_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rounded
    monkeypatch.setattr(
        "grpo_cli.models.quantized.rounded", lambda weight, settings: 3 * real(weight, settings)
    )
    config = small(tmp_path, **{**SHORT, **QUANTIZED, "temperature": 0.5})
    with pytest.raises(TrainingError, match=r"^The quantized copy behaves like another model"):
        train(config)
    assert not config.run_dir.exists()


def test_a_sampler_that_is_wrong_is_found_behind_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy explains a deviation of the policy, not one of the copy's own logprobs."""

    real = generate.generate

    def shifted(*arguments: Any) -> Any:
        completions = real(*arguments)
        for item in [item for group in completions for item in group]:
            item.logprobs = [value - 0.02 for value in item.logprobs]
        return completions

    monkeypatch.setattr("grpo_cli.engine.collect_rollouts.generate", shifted)
    with pytest.raises(TrainingError, match=r"^The sampler and the loss disagree"):
        train(small(tmp_path, **{**SHORT, **QUANTIZED}))


def test_layers_that_cannot_be_rounded_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "grpo_cli.engine.rollout.quantized_policy.Rounding", lambda bits, _: Rounding(bits, 1024)
    )
    config = small(tmp_path, **{**SHORT, **QUANTIZED})
    with pytest.raises(ModelError, match="finds no layer to quantize"):
        train(config)
    assert not config.run_dir.exists()


def test_a_dry_run_samples_from_the_copy(tmp_path: Path) -> None:
    line = dry_run(small(tmp_path, **{**SHORT, **QUANTIZED, "steps_per_generation": 2}))
    assert line["ratio_deviation"] > 1e-4
    assert set(line) >= IMPORTANCE


# --- memory ----------------------------------------------------------------------------------------------


def test_the_copy_is_part_of_the_estimate_before_it_is_made(tmp_path: Path) -> None:
    plain, run = (setup.prepare(small(tmp_path, **changes)) for changes in ({}, QUANTIZED))
    assert run.sampler.copy is None
    needs, without = needs_of(run), needs_of(plain)
    assert needs is not None
    assert without is not None
    own = copy_bytes(run.policy.model, Rounding(3, 32), dequantize=True)
    assert own > 1e6
    assert needs.weights - without.weights == own
    mx.clear_cache()
    gc.collect()  # what earlier tests left must not be freed within the measurement
    before = mx.get_active_memory()
    run.sampler.current()
    assert mx.get_active_memory() - before == pytest.approx(own, rel=0.1)
    assert next(steps_down(run.config)) == {"quantize_for_rollouts": False}


# --- a model of 32 layers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> str:
    return deep_nanochat(tmp_path_factory.mktemp("deep") / "nanochat-d32")


PROMPT = [5, 6, 7, 8]


def expected_gradient(name: str, bits: int, correction: Correction | None) -> Gradients:
    """Σ over all tokens v of π_rollout(v) · w(v) · ∇(−A(v) · ratio): the expectation, without any noise.

    bits = 0: of the policy itself.
    """
    policy = load_policy(name, "float32")
    model = policy.model
    sampler = QuantizedCopy(model, Rounding(bits, 32), dequantize=True).model if bits else model
    own, theirs = (mx.softmax(m(mx.array([PROMPT]))[0, -1]) for m in (model, sampler))
    mx.random.seed(0)
    advantages = mx.random.normal((VOCABULARY,))
    advantages = advantages - (own * advantages).sum()
    sampled: list[float] = theirs.tolist()  # type: ignore[assignment]
    rows = [
        TrainingSequence(PROMPT, rollout([token], float(advantages[token].item()), [math.log(share)]), share)
        for token, share in enumerate(sampled)
    ]
    objective = objective_of("dapo", 1.0, 0.2, 0.2, 0.0, correction=correction)
    batch = pad(rows, recompute_old=True, has_other_sampler=correction is not None)
    return accumulate(model, [batch], objective)[0]


def cosine(a: Gradients, b: Gradients) -> float:
    first, second = (mx.concatenate([x.reshape(-1) for x in flat(tree).values()]) for tree in (a, b))
    return float(((first * second).sum() / mx.sqrt((first * first).sum() * (second * second).sum())).item())


def test_the_corrected_gradient_of_a_deep_nanochat_is_the_full_policys(deep: str) -> None:
    """Whatever the copy: exactly without a cap, nearly with it, and not without the correction."""
    exact = expected_gradient(deep, 0, None)
    assert cosine(exact, expected_gradient(deep, 4, Correction())) > 0.98
    assert cosine(exact, expected_gradient(deep, 2, Correction(cap=1e6))) > 0.99999
    assert cosine(exact, expected_gradient(deep, 2, None)) < 0.7


def test_a_deep_nanochat_learns_from_rollouts_of_4_bits(deep: str, tmp_path: Path) -> None:
    """The guide switches them off for 32 layers, where gradients became NaN; here the reward rises."""
    changes = {"temperature": 1.0, "learning_rate": 1e-3, "num_generations": 8, "clip_eps": 1e-4}
    copied = {"model_name": deep, "quantize_for_rollouts": True, "bits": 4, "group_size": 32}
    config = small(tmp_path, **{**SHORT, **changes, **copied})
    train(config)
    log = lines(config.run_dir)
    assert len(log) == 6
    for line in log:
        assert "skipped" not in line
        assert line["clip_ratio"] == 0.0  # every ratio of a first update is exactly 1
        assert math.isfinite(line["loss"])
        assert 0 < line["grad_norm"] < math.inf
        assert 1e-3 < line["ratio_deviation"] < 1.0
        assert line["importance_sampling_ratio_mean"] == pytest.approx(1.0, abs=0.2)
        assert 1.0 < line["importance_sampling_ratio_max"] < 1e3
    assert sum(line["reward_mean"] for line in log[3:]) > 1.2 * sum(line["reward_mean"] for line in log[:3])
    assert first_broken(flat(load_policy(str(config.run_dir / "final")).model.parameters())) is None
