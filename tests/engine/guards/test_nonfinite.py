"""NaN where it may come from: each is found where it is, and does no harm."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.engine import events, setup
from grpo_cli.engine.guards.nonfinite import Fault, find_fault, first_broken, recorded
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.engine.train import train
from grpo_cli.engine.update import gradient
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.errors import RewardError, TrainingError
from grpo_cli.models.tree import flat
from tests.support.random_models import nanochat_policy
from tests.support.small_runs import SHORT, lines, small, weights
from tests.support.steps import objective_of
from tests.support.update_groups import step_groups

NAN, INF = float("nan"), float("inf")
OBJECTIVE = objective_of("dapo", 1.0, 0.2, 0.2, 0.0)


def batches() -> Any:
    return make_microbatches(step_groups(), LOSS_TYPES["dapo"], 6, 9, has_reference=False)


def fault_of(policy: Any) -> Fault | None:
    made = batches()
    gradients, result = accumulate(policy.model, made, OBJECTIVE)
    return find_fault(policy.model, made, OBJECTIVE, result, gradients)


def test_nothing_is_wrong() -> None:
    assert fault_of(nanochat_policy()) is None


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(
    "name", ["transformer.wte.weight", "transformer.h.1.mlp.c_fc.weight", "lm_head.weight"]
)
def test_a_weight(name: str, value: float) -> None:
    policy = nanochat_policy()
    array = flat(policy.model.parameters())[name]
    array[3, 5] = value
    policy.model.load_weights([(name, array)], strict=False)
    assert fault_of(policy) == Fault("weight", name)


def test_a_layers_output() -> None:
    """Weights that are numbers, and a product of them that is none any more."""
    policy = nanochat_policy()
    layer = policy.model.transformer.h[1].mlp
    layer.c_proj.weight = mx.full(layer.c_proj.weight.shape, 3e38)
    assert fault_of(policy) == Fault("output", "layer 1")


def test_a_gradient_is_located_from_the_end_on() -> None:
    """A NaN in the backward of a layer is in the gradients of all that come before it."""
    policy, made = nanochat_policy(), batches()
    gradients, result = accumulate(policy.model, made, OBJECTIVE)
    for name, found in flat(gradients).items():
        if name.startswith("transformer.wte") or name.startswith("transformer.h.0"):
            found[0, 0] = NAN
    result.grad_norm = NAN
    last = [name for name in flat(gradients) if name.startswith("transformer.h.0")][-1]
    assert find_fault(policy.model, made, OBJECTIVE, result, gradients) == Fault("gradient", last)


def test_the_samplers_logprobs() -> None:
    policy, made = nanochat_policy(), batches()
    made[0].old_logprobs[0, 0] = NAN
    gradients, result = accumulate(policy.model, made, OBJECTIVE)
    fault = find_fault(policy.model, made, OBJECTIVE, result, gradients)
    assert fault == Fault("logprob", "the sampler")
    assert str(fault) == "logprob of the sampler"


def test_bisection_finds_the_first_of_any_number() -> None:
    for count in (1, 2, 3, 7, 64):
        for broken in range(count):
            arrays = {str(i): mx.zeros(2) for i in range(count)}
            arrays[str(broken)] = mx.array([0.0, NAN])
            arrays[str(count - 1)] = mx.array([INF, 0.0])
            assert first_broken(arrays) == str(broken)
    assert first_broken({}) is None
    assert first_broken({"a": mx.zeros(3)}) is None


def test_recording_layers_leaves_the_model_as_it_was() -> None:
    policy = nanochat_policy()
    ids = mx.array([[1, 2, 3]])
    before = policy.model(ids)
    outputs: dict[str, mx.array] = {}
    with recorded(policy.model, outputs):
        policy.model(ids)
    assert list(outputs) == ["layer 0", "layer 1"]
    assert mx.array_equal(policy.model(ids), before)
    assert len(outputs) == 2


# --- in a run ----------------------------------------------------------------------------------------


class Injected:
    """Makes the gradients of some steps NaN, in one parameter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
        self.step, self.steps = 0, steps
        self.real = gradient.accumulate
        monkeypatch.setattr("grpo_cli.engine.update_policy.accumulate", self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.step += 1
        gradients, result = self.real(*arguments, **options)
        if self.step in self.steps:
            flat(gradients)["lm_head.weight"][0, 0] = NAN
            result.grad_norm = NAN
        return gradients, result


def test_one_nan_gradient_skips_its_update_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Injected(monkeypatch, {2})
    seen: list[str] = []
    config = small(tmp_path, **{**SHORT, "max_steps": 3, "save_steps": 1})
    train(config, lambda event: seen.append(event.text) if isinstance(event, events.Notice) else None)
    one, two, three = lines(config.run_dir)
    assert two["skipped"] == "gradient of lm_head.weight"
    assert two["grad_norm"] is None
    assert two["flags"] == ["skipped update"]
    assert "skipped" not in one | three
    assert seen == ["step 2: NaN or infinite gradient of lm_head.weight: the update is skipped"]
    first, second, third = (
        (config.run_dir / f"checkpoint-{step}/model.safetensors").read_bytes() for step in (1, 2, 3)
    )
    assert first == second != third
    assert read_state(config.run_dir / "checkpoint-2")[0].faults == ["gradient of lm_head.weight"]


def test_three_in_a_row_stop_the_run_with_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SHORT, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    whole = small(tmp_path, run_name="whole", **{**settings, "max_steps": 2})
    train(whole)
    Injected(monkeypatch, {3, 4, 5})
    config = small(tmp_path, **settings)
    with pytest.raises(TrainingError) as error:
        train(config)
    assert error.value.message == (
        "NaN gradient encountered in 3 updates in a row, at steps 3 to 5: "
        "NaN or infinite gradient of lm_head.weight"
    )
    assert f"grpo resume {config.run_dir} --set learning_rate=1e-6" in error.value.hint
    for cure in ("max_grad_norm", "dtype"):
        assert cure in error.value.hint
    kept = config.run_dir / "checkpoint-2"
    assert (kept / "model.safetensors").read_bytes() == weights(whole.run_dir)
    assert read_state(kept)[0].step == 2
    assert [line["step"] for line in lines(config.run_dir)] == [1, 2, 3, 4, 5]
    assert json.loads((config.run_dir / "training_log.jsonl").read_text().splitlines()[-1])["skipped"]


def test_a_nan_weight_is_told_as_one_and_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path, **{**SHORT, "save_steps": 2})

    def poison(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step == 3:
            array = run.policy.model.lm_head.weight
            array[0, 0] = NAN
            run.policy.model.lm_head.weight = array

    prepare = setup.prepare
    run: Any = None

    def prepared(*arguments: Any, **named: Any) -> Any:
        nonlocal run
        run = prepare(*arguments, **named)
        return run

    monkeypatch.setattr("grpo_cli.engine.train.prepare", prepared)
    with pytest.raises(TrainingError) as error:
        train(config, poison)
    assert error.value.message.startswith("The policy's logits are NaN or infinite after 0 tokens")
    assert error.value.message.endswith("; NaN in the weight lm_head.weight")
    assert sorted(path.name for path in config.run_dir.glob("checkpoint-*")) == ["checkpoint-2"]


def test_weights_that_an_update_made_infinite_are_not_saved(tmp_path: Path) -> None:
    """Sound checkpoints are not pushed out by a broken one."""
    settings = {"optimizer": "sgd", "learning_rate": 100.0, "weight_decay": 100.0, "warmup_ratio": 0.0}
    config = small(
        tmp_path, **{**SHORT, **settings, "lr_scheduler_type": "constant", "save_steps": 1, "max_steps": 30}
    )
    with pytest.raises(TrainingError) as error:
        train(config)
    assert "NaN" in error.value.message
    for folder in config.run_dir.glob("checkpoint-*"):
        loaded: Any = mx.load(str(folder / "model.safetensors"))
        assert first_broken(loaded) is None


def test_an_infinite_reward_is_told_as_one_and_what_was_done_is_saved(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "calls = 0\n"
        "def reward(completions, **columns):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    return [float('inf') if calls == 3 else float(i) for i, _ in enumerate(completions)]\n"
    )
    config = small(tmp_path, **{**SHORT, "reward_functions": [f"{tmp_path}/mine.py:reward"]})
    with pytest.raises(RewardError, match="inf"):
        train(config)
    assert read_state(config.run_dir / "checkpoint-2")[0].step == 2
    assert [line["step"] for line in lines(config.run_dir)] == [1, 2]


def test_high_rewards_and_gradients_are_flagged_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def reward(completions, **columns):\n    return [20.0 + i for i, _ in enumerate(completions)]\n"
    )
    seen: list[str] = []
    names = [f"{tmp_path}/mine.py:reward", "int"]
    config = small(tmp_path, **{**SHORT, "reward_functions": names, "max_steps": 3})
    train(config, lambda event: seen.append(event.text) if isinstance(event, events.Notice) else None)
    assert all("reward_mean > 10" in line["flags"] for line in lines(config.run_dir))
    assert len([text for text in seen if "the mean reward is 2" in text]) == 1
