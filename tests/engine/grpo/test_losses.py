"""Golden numbers: every loss type by hand, with a clipped ratio of each sign, an equal group and padding."""

import math
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.engine.grpo.averaging import AVERAGES, by_budget, by_forward, by_sequence, by_token
from grpo_cli.engine.grpo.losses import (
    Clip,
    TokenLoss,
    clipped_surrogate,
    sequence_log_ratio,
    token_loss_of,
    weighted_policy_gradient,
)

# Two completions of 3 and 2 tokens (the second row is padded), advantages +1 and −2, clip 0.2.
# ratios:  1.5 (clipped to 1.2), 1.0, 0.5        0.5 (clipped to 0.8), 1.5
# A = +1:  −1.2, −1.0, −0.5                      A = −2: +1.6, +3.0
RATIOS = [[1.5, 1.0, 0.5], [0.5, 1.5, 1.0]]
MASK = mx.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
ADVANTAGES = mx.array([[1.0], [-2.0]])
OLD = mx.full((2, 3), -2.0)
LOGPROBS = OLD + mx.log(mx.array(RATIOS))
FORWARDS = [[3], [2]]  # each completion in a forward of its own
CLIP = Clip(0.2, 0.2)


def step_loss(loss_type: str, logprobs: mx.array, max_new_tokens: int = 4) -> mx.array:
    """Σ weight · token loss, as microbatch_loss adds it up."""
    loss = LOSS_TYPES[loss_type]
    weights = mx.array(AVERAGES[loss.averaging](FORWARDS, max_new_tokens))[:, None]
    log_ratio = logprobs - OLD
    if loss.by_sequence:
        log_ratio = sequence_log_ratio(log_ratio, MASK)
    return (weights * MASK * token_loss_of(loss_type)(logprobs, log_ratio, ADVANTAGES, CLIP).loss).sum()


def surrogate(clip: Clip, logprobs: mx.array = LOGPROBS) -> TokenLoss:
    return clipped_surrogate(logprobs, logprobs - OLD, ADVANTAGES, clip)


def test_token_losses_by_hand() -> None:
    result = surrogate(CLIP)
    expected = [[-1.2, -1.0, -0.5], [1.6, 3.0, 2.0]]
    assert mx.allclose(result.loss, mx.array(expected), atol=1e-6)
    assert result.clipped.tolist() == [[True, False, False], [True, False, False]]
    assert result.high.tolist() == [[True, False, False], [False, False, False]]
    assert result.low.tolist() == [[False, False, False], [True, False, False]]


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", ((-1.2 - 1.0 - 0.5) / 3 + (1.6 + 3.0) / 2) / 2),
        ("bnpo", ((-1.2 - 1.0 - 0.5) / 3 + (1.6 + 3.0) / 2) / 2),  # a completion a forward
        ("dapo", (-1.2 - 1.0 - 0.5 + 1.6 + 3.0) / 5),
        ("dr_grpo", (-1.2 - 1.0 - 0.5 + 1.6 + 3.0) / (2 * 4)),
        (  # −min(r, 1.2) · A · logp
            "cispo",
            (
                -1.2 * (-2 + math.log(1.5)) - 1.0 * -2 - 0.5 * (-2 + math.log(0.5))
                + 2 * 0.5 * (-2 + math.log(0.5)) + 2 * 1.2 * (-2 + math.log(1.5))
            ) / 5,
        ),
        # s = (1.5 · 0.5)^(1/3) = 0.9086 and (0.5 · 1.5)^(1/2) = 0.8660, both within the clip
        ("gspo", (-(0.75 ** (1 / 3)) + 2 * 0.75 ** (1 / 2)) / 2),
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
        ("bnpo", [[0, -1.0 / 6, -0.5 / 6], [0, 3.0 / 4, 0]]),
        ("dapo", [[0, -1.0 / 5, -0.5 / 5], [0, 3.0 / 5, 0]]),
        # −sg(min(r, 1.2)) · A, for the clipped ones, too
        ("cispo", [[-1.2 / 5, -1.0 / 5, -0.5 / 5], [2 * 0.5 / 5, 2 * 1.2 / 5, 0]]),
        # d s/d logp_t = s / |y|, then −A · s / |y| / B
        ("gspo", [[-(0.75 ** (1 / 3)) / 6] * 3, [2 * 0.75 ** (1 / 2) / 4] * 2 + [0]]),
        ("dr_grpo", [[0, -1.0 / 8, -0.5 / 8], [0, 3.0 / 8, 0]]),
        ("reinforce", [[-1 / 5, -1 / 5, -1 / 5], [2 / 5, 2 / 5, 0]]),
    ],
)
def test_gradient_of_each_loss_type(loss_type: str, expected: list[list[float]]) -> None:
    gradient = mx.grad(lambda logprobs: step_loss(loss_type, logprobs))(LOGPROBS)
    assert mx.allclose(gradient, mx.array(expected), atol=1e-6), gradient


def test_asymmetric_clip() -> None:
    result = surrogate(Clip(0.2, 0.6))
    assert result.loss[0, 0].item() == pytest.approx(-1.5)  # 1.5 is within 1 + 0.6
    assert not result.clipped[0, 0].item()


def test_an_advantage_of_zero_has_no_loss_and_no_gradient() -> None:
    zero = mx.zeros((2, 1))
    value, gradient = mx.value_and_grad(
        lambda logprobs: clipped_surrogate(logprobs, logprobs - OLD, zero, CLIP).loss.sum()
    )(LOGPROBS)
    assert value.item() == 0.0
    assert gradient.abs().max().item() == 0.0


def test_delta_bounds_what_a_negative_advantage_does_to_a_likelier_token() -> None:
    # min(r, 1.3)·A: −1.2, −1.0, −0.5 as without; A = −2: 0.5 → clip 0.8 → 1.6, 1.5 → 1.3 → 2.6, 1.0 → 2.0
    clip = Clip(0.2, 0.2, delta=1.3)
    result = surrogate(clip)
    expected = [[-1.2, -1.0, -0.5], [1.6, 2.6, 2.0]]
    assert mx.allclose(result.loss, mx.array(expected), atol=1e-6)
    assert result.clipped.tolist() == [[True, False, False], [True, True, False]]
    assert result.low.tolist() == [[False, False, False], [True, False, False]]  # δ is neither
    assert result.high.tolist() == [[True, False, False], [False, False, False]]
    gradient = mx.grad(lambda logprobs: surrogate(clip, logprobs).loss.sum())(LOGPROBS)
    assert mx.allclose(gradient, mx.array([[0, -1.0, -0.5], [0, 0, 2.0]]), atol=1e-6)


def test_delta_beyond_every_ratio_changes_nothing() -> None:
    assert mx.array_equal(surrogate(Clip(0.2, 0.2, delta=1.6)).loss, surrogate(CLIP).loss)


def test_cispo_counts_what_it_bounds() -> None:
    result = weighted_policy_gradient(LOGPROBS, LOGPROBS - OLD, ADVANTAGES, Clip(0.2, 0.4))
    assert result.clipped.tolist() == [[True, False, False], [False, True, False]]  # r > 1.4
    assert result.high.tolist() == [[True, False, False], [False, False, False]]  # with A > 0
    assert not result.low.any().item()


def test_a_clipped_sequence_has_no_gradient_at_any_token() -> None:
    # s = 0.866 is below 1 − 0.1 with A < 0: −(0.9 · −2) = 1.8; s = 0.909 with A > 0 is free
    def rows(logprobs: mx.array) -> mx.array:
        log_ratio = sequence_log_ratio(logprobs - OLD, MASK)
        return clipped_surrogate(logprobs, log_ratio, ADVANTAGES, Clip(0.1, 0.1)).loss

    assert mx.allclose(rows(LOGPROBS), mx.array([[-(0.75 ** (1 / 3))], [1.8]]), atol=1e-6)
    gradient = mx.grad(lambda logprobs: rows(logprobs).sum())(LOGPROBS)
    assert mx.allclose(gradient, mx.array([[-(0.75 ** (1 / 3)) / 3] * 3, [0.0] * 3]), atol=1e-6)


def test_weights_of_a_step() -> None:
    assert by_sequence([[3, 2]], 4) == [1 / 6, 1 / 4]
    assert by_token([[3, 2]], 4) == [1 / 5, 1 / 5]
    assert by_budget([[3, 2]], 4) == [1 / 8, 1 / 8]
    assert by_forward([[3, 2], [1, 1]], 4) == [1 / 10, 1 / 10, 1 / 4, 1 / 4]


def test_a_completion_that_does_not_count_weighs_nothing_and_dilutes_nothing() -> None:
    forwards = [[3, 0], [0, 0], [2, 1]]
    assert by_sequence(forwards, 4) == [1 / 9, 0, 0, 0, 1 / 6, 1 / 3]
    assert by_token(forwards, 4) == [1 / 6, 0, 0, 0, 1 / 6, 1 / 6]
    assert by_budget(forwards, 4) == [1 / 12, 0, 0, 0, 1 / 12, 1 / 12]
    assert by_forward(forwards, 4) == [1 / 6, 0, 0, 0, 1 / 6, 1 / 6]  # two forwards of three tokens
    for loss in LOSS_TYPES.values():
        assert AVERAGES[loss.averaging]([[0, 0], [0]], 4) == [0, 0, 0]


def test_every_loss_type_names_functions_that_exist() -> None:
    for name, loss in LOSS_TYPES.items():
        assert token_loss_of(name).__name__ == loss.token_loss
        assert AVERAGES[loss.averaging].__name__ == loss.averaging


def test_the_flags_of_a_loss_type_say_what_its_function_does() -> None:
    """With a ratio the loss depends on the old policy; with a clip, on `delta`."""
    for name, loss in LOSS_TYPES.items():
        token_loss = token_loss_of(name)

        def value(old: mx.array, clip: Clip, token_loss: Any = token_loss) -> list[list[float]]:
            return token_loss(LOGPROBS, LOGPROBS - old, ADVANTAGES, clip).loss.tolist()

        assert (value(OLD, CLIP) != value(OLD + 0.1, CLIP)) == loss.has_ratio
        assert (value(OLD, CLIP) != value(OLD, Clip(0.2, 0.2, 1.3))) == loss.has_clip
