"""Golden numbers: every loss type by hand, with a clipped ratio of each sign, an equal group and padding."""

import math

import mlx.core as mx
import pytest

from grpo_cli.engine.losses import LOSSES, by_budget, by_sequence, by_token, clipped_surrogate, k3_divergence

# Two completions of 3 and 2 tokens (the second row is padded), advantages +1 and −2, clip 0.2.
# ratios:  1.5 (clipped to 1.2), 1.0, 0.5        0.5 (clipped to 0.8), 1.5
# A = +1:  −1.2, −1.0, −0.5                      A = −2: +1.6, +3.0
RATIOS = [[1.5, 1.0, 0.5], [0.5, 1.5, 1.0]]
MASK = mx.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
ADVANTAGES = mx.array([[1.0], [-2.0]])
OLD = mx.full((2, 3), -2.0)
LOGPROBS = OLD + mx.log(mx.array(RATIOS))
LENGTHS = [3, 2]


def step_loss(loss_type: str, logprobs: mx.array, max_new_tokens: int = 4) -> mx.array:
    """Σ weight · token loss, as update.microbatch_loss adds it up."""
    loss = LOSSES[loss_type]
    weights = mx.array(loss.weights(LENGTHS, max_new_tokens))[:, None]
    return (weights * MASK * loss.token_loss(logprobs, OLD, ADVANTAGES, 0.2, 0.2).loss).sum()


def test_token_losses_by_hand() -> None:
    result = clipped_surrogate(LOGPROBS, OLD, ADVANTAGES, 0.2, 0.2)
    expected = [[-1.2, -1.0, -0.5], [1.6, 3.0, 2.0]]
    assert mx.allclose(result.loss, mx.array(expected), atol=1e-6)
    assert result.clipped.tolist() == [[True, False, False], [True, False, False]]


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", ((-1.2 - 1.0 - 0.5) / 3 + (1.6 + 3.0) / 2) / 2),
        ("dapo", (-1.2 - 1.0 - 0.5 + 1.6 + 3.0) / 5),
        ("dr_grpo", (-1.2 - 1.0 - 0.5 + 1.6 + 3.0) / (2 * 4)),
        (
            "reinforce",
            (
                -(-2 + math.log(1.5)) - (-2 + math.log(1.0)) - (-2 + math.log(0.5))
                + 2 * (-2 + math.log(0.5)) + 2 * (-2 + math.log(1.5))
            ) / 5,
        ),
    ],
)  # fmt: skip
def test_value_of_each_loss_type(loss_type: str, expected: float) -> None:
    assert step_loss(loss_type, LOGPROBS).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [  # d(−r·A)/dlogp = −r·A where the clip does not cut it, 0 where it does
        ("grpo", [[0, -1.0 / 6, -0.5 / 6], [0, 3.0 / 4, 0]]),
        ("dapo", [[0, -1.0 / 5, -0.5 / 5], [0, 3.0 / 5, 0]]),
        ("dr_grpo", [[0, -1.0 / 8, -0.5 / 8], [0, 3.0 / 8, 0]]),
        ("reinforce", [[-1 / 5, -1 / 5, -1 / 5], [2 / 5, 2 / 5, 0]]),
    ],
)
def test_gradient_of_each_loss_type(loss_type: str, expected: list[list[float]]) -> None:
    gradient = mx.grad(lambda logprobs: step_loss(loss_type, logprobs))(LOGPROBS)
    assert mx.allclose(gradient, mx.array(expected), atol=1e-6), gradient


def test_asymmetric_clip() -> None:
    result = clipped_surrogate(LOGPROBS, OLD, ADVANTAGES, 0.2, 0.6)
    assert result.loss[0, 0].item() == pytest.approx(-1.5)  # 1.5 is within 1 + 0.6
    assert not result.clipped[0, 0].item()


def test_an_advantage_of_zero_has_no_loss_and_no_gradient() -> None:
    zero = mx.zeros((2, 1))
    value, gradient = mx.value_and_grad(
        lambda logprobs: clipped_surrogate(logprobs, OLD, zero, 0.2, 0.2).loss.sum()
    )(LOGPROBS)
    assert value.item() == 0.0
    assert gradient.abs().max().item() == 0.0


def test_weights_of_a_step() -> None:
    assert by_sequence([3, 2], 4) == [1 / 6, 1 / 4]
    assert by_token([3, 2], 4) == [1 / 5, 1 / 5]
    assert by_budget([3, 2], 4) == [1 / 8, 1 / 8]


def test_k3_by_hand() -> None:
    # ref − logp = ln 2: 2 − ln 2 − 1; equal: 0; ref − logp = −ln 2: 0.5 + ln 2 − 1
    logprobs = mx.array([[-1.0, -1.0, -1.0]])
    ref = logprobs + mx.array([[math.log(2), 0.0, -math.log(2)]])
    expected = [[1 - math.log(2), 0.0, math.log(2) - 0.5]]
    assert mx.allclose(k3_divergence(logprobs, ref), mx.array(expected), atol=1e-6)
    # d k3 / d logp = 1 − exp(ref − logp)
    gradient = mx.grad(lambda value: k3_divergence(value, ref).sum())(logprobs)
    assert mx.allclose(gradient, mx.array([[-1.0, 0.0, 0.5]]), atol=1e-6)
