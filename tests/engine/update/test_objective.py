"""The update: against a loop written without the engine, and the same whatever the microbatch."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.forward import token_logprobs
from grpo_cli.engine.update.gradient import accumulate, global_norm
from grpo_cli.engine.update.optimizer import Optimizer, make_rule
from tests.support.random_models import group, nanochat_policy, rollout
from tests.support.steps import objective_of
from tests.support.update_groups import TEMPERATURE, nearby_reference, step_groups, with_old_logprobs


def test_completions_without_advantage_are_left_out_only_without_a_reference() -> None:
    without = make_microbatches(step_groups(), LOSS_TYPES["dapo"], 6, 4, has_reference=False)
    assert sum(batch.targets.shape[0] for batch in without) == 5
    assert sum(batch.token_count for batch in without) == 3 + 1 + 2 + 4 + 2
    assert without[0].weights[0, 0].item() == pytest.approx(1 / 19)  # of all 19 tokens of the step
    with_reference = make_microbatches(step_groups(), LOSS_TYPES["dapo"], 6, 4, has_reference=True)
    assert sum(batch.targets.shape[0] for batch in with_reference) == 9


def test_a_step_of_equal_rewards_has_a_gradient_of_exactly_zero() -> None:
    policy = nanochat_policy()
    groups = step_groups()[2:]
    batches = make_microbatches(groups, LOSS_TYPES["dapo"], 6, 4, has_reference=False)
    gradients, result = accumulate(policy.model, batches, objective_of("dapo", 1.0, 0.2, 0.2, 0.0))
    assert result.grad_norm == 0.0
    assert result.loss == 0.0
    assert all(mx.all(gradient == 0).item() for _, gradient in tree_flatten(gradients))


def test_clip_ratio_and_kl_are_means_over_tokens() -> None:
    policy = nanochat_policy()
    reference = nearby_reference(policy)
    groups = [group([1, 2], [rollout([5, 6, 7], 1.0), rollout([8], -1.0)])]
    with_old_logprobs(policy.model, groups, shift=-0.4)  # ratios e^0.4 = 1.49 and e^−0.4 = 0.67
    batches = make_microbatches(groups, LOSS_TYPES["dapo"], 6, 1, has_reference=True)
    for batch in batches:
        batch.ref_logprobs = token_logprobs(reference.model, batch, 1.0)
    _, result = accumulate(policy.model, batches, objective_of("dapo", TEMPERATURE, 0.2, 0.2, 0.1))
    assert result.clip_ratio == 1.0  # 3 tokens above with A > 0, 1 token below with A < 0
    assert result.kl is not None
    assert result.kl > 0


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
