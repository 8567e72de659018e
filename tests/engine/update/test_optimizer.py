"""The optimizer: numbers by hand, and arrays one after the other, byte for byte as all at once."""

import gc
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map

from grpo_cli.config.schema import Config
from grpo_cli.engine.update import optimizer as optimizers
from grpo_cli.engine.update.gradient import global_norm
from grpo_cli.engine.update.optimizer import Optimizer, handfuls, make_rule
from grpo_cli.models.adapters import LoRA, add_adapters
from grpo_cli.models.load import Policy
from grpo_cli.models.tree import at, flat
from tests.support.prepared_runs import distance, movement, prepared
from tests.support.random_models import llama_policy, nanochat_policy

STEPS = 3
RULES = ["adamw", "adam", "lion", "sgd", "muon"]


def random_gradients(policy: Policy, step: int) -> Any:
    """Some gradients, the same for the same step, in the weights' dtype."""
    mx.random.seed(100 + step)
    return tree_map(
        lambda array: mx.random.normal(array.shape).astype(array.dtype), policy.model.trainable_parameters()
    )


def all_at_once(policy: Policy, config: Config, scale: float) -> dict[str, mx.array]:
    """Weights, state and float32 copies after some steps of MLX's rule on the whole tree."""
    model, rule = policy.model, make_rule(config, policy.model)
    master = tree_map(lambda array: array.astype(mx.float32), model.trainable_parameters())
    for step in range(STEPS):
        rule.learning_rate = 0.01 * (step + 1)
        gradients = random_gradients(policy, step)
        if scale != 1.0:
            gradients = tree_map(lambda gradient: gradient * scale, gradients)
        gradients = tree_map(lambda gradient: gradient.astype(mx.float32), gradients)
        master = rule.apply_gradients(gradients, master)
        model.update(tree_map(lambda new, old: new.astype(old.dtype), master, model.trainable_parameters()))
    return flat({"weights": model.trainable_parameters(), "rule": rule.state, "master": master})


def one_after_the_other(policy: Policy, config: Config, scale: float) -> dict[str, mx.array]:
    """The same by our step; without copies the weights stand for them."""
    model = policy.model
    optimizer = Optimizer(config, model)
    for step in range(STEPS):
        norm = config.max_grad_norm / scale
        optimizer.step(model, random_gradients(policy, step), norm, 0.01 * (step + 1))
    master = optimizer.master or model.trainable_parameters()
    return flat({"weights": model.trainable_parameters(), "rule": optimizer.rule.state, "master": master})


def assert_same_bytes(found: dict[str, mx.array], expected: dict[str, mx.array]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert as_bytes(found[name]) == as_bytes(array), name


def as_bytes(array: mx.array) -> bytes:
    return bytes(memoryview(array.reshape(-1).view(mx.uint8)))


@pytest.mark.parametrize("at_once", [1, 3000, 1 << 20])  # each array alone, some, all of this model
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("rule", RULES)
def test_arrays_one_after_the_other_are_all_at_once(
    rule: str, scale: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "AT_ONCE", at_once)
    config = Config(optimizer=rule, weight_decay=0.1, max_grad_norm=0.5)
    expected = all_at_once(llama_policy(), config, scale)
    found = one_after_the_other(llama_policy(), config, scale)
    assert_same_bytes(found, expected)
    before = flat(llama_policy().model.trainable_parameters())
    assert all((found[f"weights.{name}"] != array).any().item() for name, array in before.items())


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("rule", RULES)
def test_with_float32_copies_too(rule: str, dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "AT_ONCE", 3000)

    def half() -> Policy:
        policy = nanochat_policy()
        policy.model.set_dtype(dtype)
        return policy

    config = Config(optimizer=rule, weight_decay=0.1, max_grad_norm=0.5)
    expected = all_at_once(half(), config, 0.25)
    found = one_after_the_other(half(), config, 0.25)
    assert found["weights.lm_head.weight"].dtype == dtype
    assert found["master.lm_head.weight"].dtype == mx.float32
    assert_same_bytes(found, expected)


def test_adapters_only() -> None:
    def adapted() -> Policy:
        policy = llama_policy()
        mx.random.seed(1)
        add_adapters(policy.model, LoRA(rank=2))
        return policy

    config = Config(weight_decay=0.1, max_grad_norm=0.5)
    found = one_after_the_other(adapted(), config, 0.25)
    assert_same_bytes(found, all_at_once(adapted(), config, 0.25))
    assert all("lora" in name for name in found if name.startswith("weights."))


def test_the_gradients_are_used_up() -> None:
    policy = llama_policy()
    gradients = random_gradients(policy, 0)
    Optimizer(Config(), policy.model).step(policy.model, gradients, 1.0, 0.1)
    assert gradients == {}


@pytest.mark.parametrize(("kept", "most"), [(0, 5), (optimizers.KEPT, 10)])
def test_of_the_step_only_a_few_arrays_are_in_memory(
    kept: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 arrays of 4 MB: the step needs less than five of them beside weights, state and gradient.

    Arrays small enough to be kept until the new ones are computed need four more.
    """
    monkeypatch.setattr(optimizers, "KEPT", kept)
    policy = llama_policy(hidden_size=1024, num_attention_heads=8, intermediate_size=1024)
    optimizer = Optimizer(Config(), policy.model)
    gradients = random_gradients(policy, 0)
    mx.eval(gradients, optimizer.rule.state)
    mx.reset_peak_memory()
    gc.collect()  # what earlier tests left must not be freed within the measurement
    before = mx.get_active_memory()
    optimizer.step(policy.model, gradients, 10.0, 0.1)
    array = 4 * 1024 * 1024
    assert sum(a.nbytes for a in flat(policy.model.trainable_parameters()).values()) > 10 * array
    assert mx.get_peak_memory() - before < most * array
    assert mx.get_active_memory() < before - 9 * array  # the gradient is gone


def test_handfuls_are_small_arrays_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "AT_ONCE", 10)
    sizes = {"a": 50, "b": 4, "c": 7, "d": 3, "e": 10}
    arrays = {name: mx.zeros(size) for name, size in sizes.items()}
    assert list(handfuls(arrays)) == [["d", "b", "c"], ["e"], ["a"]]
    assert list(handfuls({})) == []
    assert list(handfuls({"b": arrays["b"]})) == [["b"]]


def test_an_array_by_its_name() -> None:
    model = llama_policy().model
    for name, array in flat(model.parameters()).items():
        assert at(model, name) is array


def test_the_gradient_is_clipped_to_max_grad_norm(tmp_path: Path) -> None:
    run, batches = prepared(tmp_path)
    free = movement(run, batches)
    norm = global_norm(free) / 0.1  # moved by 0.1 · gradient
    run, batches = prepared(tmp_path, max_grad_norm=norm / 3)
    clipped = movement(run, batches)
    assert distance(free, clipped, scale=3.0) < 1e-3
    run, batches = prepared(tmp_path, max_grad_norm=norm * 3)
    assert distance(free, movement(run, batches)) < 1e-6


# --- by hand --------------------------------------------------------------------------------------


# Two updates of the weight 2 at rate 0.1 with gradients 1 and −0.5, betas 0.6 and 0.8, decay 0.5.
ADAM_SECOND = (0.6 * 0.4 - 0.4 * 0.5) / (1 - 0.6**2) / math.sqrt((0.8 * 0.2 + 0.2 * 0.25) / (1 - 0.8**2))
TWO_STEPS = {
    "adamw": (2.0 * 0.95 - 0.1) * 0.95 - 0.1 * ADAM_SECOND,
    "adam": 2.0 - 0.1 - 0.1 * ADAM_SECOND,
    # moment: 0.2 · 1 after the first; the second's sign is that of 0.6 · 0.2 − 0.4 · 0.5 = −0.08
    "lion": (2.0 * 0.95 - 0.1) * 0.95 + 0.1,
    "sgd": (2.0 - 0.1 * (1.0 + 0.5 * 2.0)) - 0.1 * (-0.5 + 0.5 * 1.8),
}


@pytest.mark.parametrize("name", list(TWO_STEPS))
def test_two_steps_of_every_optimizer_by_hand(name: str) -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = mx.array([[2.0]])
    config = Config(
        optimizer=name,  # type: ignore[arg-type]
        adam_beta1=0.6,
        adam_beta2=0.8,
        weight_decay=0.5,
        max_grad_norm=9.0,
        learning_rate=0.3,
    )
    optimizer = Optimizer(config, layer)
    for gradient in (1.0, -0.5):
        optimizer.step(layer, {"weight": mx.array([[gradient]])}, abs(gradient), learning_rate=0.1)
    assert layer.weight.item() == pytest.approx(TWO_STEPS[name], abs=1e-5)


def test_clipping_scales_to_the_norm_and_sgd_steps_by_hand() -> None:
    policy = nanochat_policy()
    before = policy.model.lm_head.weight
    gradients = policy.model.trainable_parameters()
    norm = global_norm(gradients)
    optimizer = Optimizer(Config(optimizer="sgd", max_grad_norm=norm / 4), policy.model)
    optimizer.step(policy.model, gradients, norm, learning_rate=0.5)
    assert mx.allclose(policy.model.lm_head.weight, before * (1 - 0.5 / 4), rtol=1e-5)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_weights_keep_what_rounding_would_swallow(dtype: mx.Dtype) -> None:
    """Adam's step of 1e-5 at weight 1: 200 of them make 0.998, where each alone rounds to nothing."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight = mx.array([[1.0, -1.0]], dtype=dtype)
    optimizer = Optimizer(Config(learning_rate=1e-5, max_grad_norm=100.0), layer)
    for step in range(200):
        optimizer.step(layer, {"weight": mx.array([[1.0, -1e-3]], dtype=dtype)}, 1.0, learning_rate=1e-5)
        if step == 0:
            assert layer.weight.tolist() == [[1.0, -1.0]]
    assert layer.weight.dtype == dtype
    assert mx.allclose(optimizer.master["weight"], mx.array([[0.998, -0.998]]), atol=1e-5)
    assert mx.allclose(layer.weight.astype(mx.float32), mx.array([[0.998, -0.998]]), atol=2e-3)
    assert (layer.weight != mx.array([[1.0, -1.0]], dtype=dtype)).all()
    assert set(optimizer.arrays()) >= {"master.weight", "rule.weight.m", "rule.weight.v"}


def test_adamw_has_bias_correction_and_decoupled_decay() -> None:
    """First update of AdamW: w·(1 − lr·decay) − lr·sign(g), for any β (Loshchilov and Hutter)."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight = mx.array([[1.0, -2.0]])
    optimizer = make_rule(Config(learning_rate=0.1, weight_decay=0.5, adam_beta1=0.8, adam_beta2=0.9))
    optimizer.update(layer, {"weight": mx.array([[3.0, -0.01]])})
    expected = [[1.0 * 0.95 - 0.1, -2.0 * 0.95 + 0.1]]
    assert mx.allclose(layer.weight, mx.array(expected), atol=1e-5)
