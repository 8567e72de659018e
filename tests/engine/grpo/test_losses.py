"""Golden numbers: every loss type by hand, with a clipped ratio of each sign, an equal group and padding."""

import math
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine.grpo.averaging import (
    AVERAGES,
    by_budget,
    by_forward,
    by_sequence,
    by_sequence_sum,
    by_token,
)
from grpo_cli.engine.grpo.losses import (
    TokenLoss,
    Tokens,
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
CLIP = Config(clip_eps=0.2)
S, S_NEG = (1 / (1 + math.exp(-0.5 * tau)) for tau in (1.0, 1.05))  # sapo: σ at r = 1.5; 1 − S at r = 0.5
PHI = (0.75**2 * math.exp(3 * 0.25), 0.75**3 * math.exp(2 * 0.25))  # vespo: W is 0.75 in both rows
# gmpo: log ratios of at most 0.2 (A > 0) and of at least −0.2 (A < 0)
GEOMETRIC = (math.exp((0.2 + math.log(0.5)) / 3), math.exp((-0.2 + math.log(1.5)) / 2))


def tokens(
    logprobs: mx.array = LOGPROBS, *, by_sequence: bool = False, old: mx.array = OLD, **more: Any
) -> Tokens:
    log_ratio = mx.where(MASK > 0, logprobs - old, 0.0)
    return Tokens(
        logprobs=logprobs,
        log_ratio=sequence_log_ratio(log_ratio, MASK) if by_sequence else log_ratio,
        token_log_ratio=log_ratio,
        **{"advantages": ADVANTAGES, "mask": MASK > 0, **more},
    )


def step_loss(loss_type: str, logprobs: mx.array, max_new_tokens: int = 4, **keys: Any) -> mx.array:
    """Σ weight · token loss, as microbatch_loss adds it up."""
    loss = LOSS_TYPES[loss_type]
    weights = mx.array(AVERAGES[loss.averaging](FORWARDS, max_new_tokens))[:, None]
    given = tokens(logprobs, by_sequence=loss.by_sequence)
    return (weights * MASK * token_loss_of(loss_type)(given, Config(clip_eps=0.2, **keys)).loss).sum()


def surrogate(clip: Config, logprobs: mx.array = LOGPROBS) -> TokenLoss:
    return clipped_surrogate(tokens(logprobs), clip)


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
        # 4/τ · (σ(τ/2) + σ(−τ/2)) = 4/τ, and σ(0) = 1/2
        ("sapo", (-4 * 1.5 / 3 + 2 * (4 / 1.05) / 2) / 2),
        ("luspo", (-3 * 0.75 ** (1 / 3) + 2 * 2 * 0.75 ** (1 / 2)) / 2),
        ("gmpo", (-GEOMETRIC[0] + 2 * GEOMETRIC[1]) / 2),
        ("vespo", (-PHI[0] * (-6 + math.log(0.75)) + 2 * PHI[1] * (-4 + math.log(0.75))) / 5),
        (  # probabilities of e^−2 = 0.135 move by at most half of that, less than 0.2
            "dppo",
            (
                -1.5 * (-2 + math.log(1.5)) - 1.0 * -2 - 0.5 * (-2 + math.log(0.5))
                + 2 * 0.5 * (-2 + math.log(0.5)) + 2 * 1.5 * (-2 + math.log(1.5))
            ) / 5,
        ),
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
        # −A · 4 · σ · (1 − σ) · r, which at r = 1 is −A
        ("sapo", [[-4 * S * (1 - S) * r / 6 for r in (1.5, 0.25 / (S * (1 - S)), 0.5)],
                  [8 * S_NEG * (1 - S_NEG) * r / 4 for r in (0.5, 1.5, 0.0)]]),
        ("luspo", [[-(0.75 ** (1 / 3)) / 2] * 3, [0.75 ** (1 / 2)] * 2 + [0]]),
        ("gmpo", [[0, -GEOMETRIC[0] / 6, -GEOMETRIC[0] / 6], [0, 2 * GEOMETRIC[1] / 4, 0]]),
        ("vespo", [[-PHI[0] / 5] * 3, [2 * PHI[1] / 5] * 2 + [0]]),
        ("dppo", [[-1.5 / 5, -1.0 / 5, -0.5 / 5], [2 * 0.5 / 5, 2 * 1.5 / 5, 0]]),
        ("reinforce", [[-1 / 5, -1 / 5, -1 / 5], [2 / 5, 2 / 5, 0]]),
    ],
)  # fmt: skip
def test_gradient_of_each_loss_type(loss_type: str, expected: list[list[float]]) -> None:
    gradient = mx.grad(lambda logprobs: step_loss(loss_type, logprobs))(LOGPROBS)
    assert mx.allclose(gradient, mx.array(expected), atol=1e-6), gradient


def test_asymmetric_clip() -> None:
    result = surrogate(Config(clip_eps=0.2, clip_eps_high=0.6))
    assert result.loss[0, 0].item() == pytest.approx(-1.5)  # 1.5 is within 1 + 0.6
    assert not result.clipped[0, 0].item()


def test_an_advantage_of_zero_has_no_loss_and_no_gradient() -> None:
    zero = mx.zeros((2, 1))
    value, gradient = mx.value_and_grad(
        lambda logprobs: clipped_surrogate(tokens(logprobs, advantages=zero), CLIP).loss.sum()
    )(LOGPROBS)
    assert value.item() == 0.0
    assert gradient.abs().max().item() == 0.0


def test_delta_bounds_what_a_negative_advantage_does_to_a_likelier_token() -> None:
    # min(r, 1.3)·A: −1.2, −1.0, −0.5 as without; A = −2: 0.5 → clip 0.8 → 1.6, 1.5 → 1.3 → 2.6, 1.0 → 2.0
    clip = Config(clip_eps=0.2, delta=1.3)
    result = surrogate(clip)
    expected = [[-1.2, -1.0, -0.5], [1.6, 2.6, 2.0]]
    assert mx.allclose(result.loss, mx.array(expected), atol=1e-6)
    assert result.clipped.tolist() == [[True, False, False], [True, True, False]]
    assert result.low.tolist() == [[False, False, False], [True, False, False]]  # δ is neither
    assert result.high.tolist() == [[True, False, False], [False, False, False]]
    gradient = mx.grad(lambda logprobs: surrogate(clip, logprobs).loss.sum())(LOGPROBS)
    assert mx.allclose(gradient, mx.array([[0, -1.0, -0.5], [0, 0, 0]]), atol=1e-6)


def test_delta_beyond_every_ratio_changes_nothing() -> None:
    assert mx.array_equal(surrogate(Config(clip_eps=0.2, delta=1.6)).loss, surrogate(CLIP).loss)


def test_cispo_counts_what_it_bounds() -> None:
    result = weighted_policy_gradient(tokens(), Config(clip_eps=0.2, clip_eps_high=0.4))
    assert result.clipped.tolist() == [[True, False, False], [False, True, False]]  # r > 1.4
    assert result.high.tolist() == [[True, False, False], [False, False, False]]  # with A > 0
    assert not result.low.any().item()


def test_a_clipped_sequence_has_no_gradient_at_any_token() -> None:
    # s = 0.866 is below 1 − 0.1 with A < 0: −(0.9 · −2) = 1.8; s = 0.909 with A > 0 is free
    def rows(logprobs: mx.array) -> mx.array:
        return clipped_surrogate(tokens(logprobs, by_sequence=True), Config(clip_eps=0.1)).loss

    assert mx.allclose(rows(LOGPROBS), mx.array([[-(0.75 ** (1 / 3))], [1.8]]), atol=1e-6)
    gradient = mx.grad(lambda logprobs: rows(logprobs).sum())(LOGPROBS)
    assert mx.allclose(gradient, mx.array([[-(0.75 ** (1 / 3)) / 3] * 3, [0.0] * 3]), atol=1e-6)


def test_the_keys_of_sapo_by_hand() -> None:
    """Temperatures 2 and 4: σ(2 · 0.5) = 0.7311 and σ(4 · 0.5) = 0.8808."""
    loss = token_loss_of("sapo")(tokens(), Config(sapo_temperature_pos=2.0, sapo_temperature_neg=4.0)).loss
    expected = [[-2 * 0.731059, -1.0, -2 * 0.268941], [2 * 0.119203, 2 * 0.880797, 2 * 0.5]]
    assert mx.allclose(loss, mx.array(expected), atol=1e-5)


def test_the_keys_of_vespo_and_a_quantized_samplers_weights_by_hand() -> None:
    """φ = W^k · exp(λ(1 − W)); the weights 2, 1, ½ leave W at 0.75, and 4, 1 raise it to 3."""
    weights = mx.log(mx.array([[2.0, 1.0, 0.5], [4.0, 1.0, 9.0]]))
    config = Config(vespo_k_pos=1.0, vespo_lambda_pos=0.5, vespo_k_neg=0.5, vespo_lambda_neg=1.0)
    loss = token_loss_of("vespo")(tokens(log_weights=weights), config).loss
    first, second = 0.75 * math.exp(0.5 * 0.25), math.sqrt(3) * math.exp(-2)
    expected = mx.concatenate([-first * LOGPROBS[:1], 2 * second * LOGPROBS[1:]])
    assert mx.allclose(loss, expected, atol=1e-6)


def test_vespo_bounds_what_would_overflow() -> None:
    """A masked weight of 0 counts as 1e-8, a ratio of e^60 as e^20: both leave no gradient."""
    for given in (tokens(log_weights=mx.full((2, 3), -mx.inf)), tokens(LOGPROBS + 60.0)):
        loss = token_loss_of("vespo")(given, Config()).loss
        assert mx.abs(loss).max().item() < 1e-12


@pytest.mark.parametrize(
    ("keys", "low", "high"),
    [  # |new − old|: 0.0677 at both 1.5 and 0.5
        ({"clip_eps": 0.05}, True, True),
        ({"clip_eps": 0.05, "clip_eps_high": 0.07}, True, False),
        ({"clip_eps": 0.07, "clip_eps_high": 0.05}, False, True),
        # KL of 0.135 against 0.203: 0.0156; against 0.068: 0.0287
        ({"clip_eps": 0.02, "divergence_type": "binary_kl"}, True, False),
        ({"clip_eps": 0.015, "divergence_type": "binary_kl"}, True, True),
        ({"clip_eps": 0.03, "clip_eps_high": 0.015, "divergence_type": "binary_kl"}, False, True),
        ({"clip_eps": 0.03, "clip_eps_high": 0.016, "divergence_type": "binary_kl"}, False, False),
    ],
)
def test_dppo_masks_what_moved_too_far_away(keys: dict[str, Any], low: bool, high: bool) -> None:
    """The likelier token with A > 0, and the unlikelier one with A < 0; never a move back."""
    config = Config(clip_ratio_c=1.2, **keys)
    result = token_loss_of("dppo")(tokens(), config)
    assert result.high.tolist() == [[high, False, False], [False, False, False]]
    assert result.low.tolist() == [[False, False, False], [low, False, False]]
    gradient = mx.grad(lambda logprobs: token_loss_of("dppo")(tokens(logprobs), config).loss.sum())(LOGPROBS)
    expected = [[0 if high else -1.2, -1.0, -0.5], [0 if low else 1.0, 2.4, 2.0]]  # ratios up to 1.2
    assert mx.allclose(gradient, mx.array(expected), atol=1e-6), gradient


def test_gmpo_counts_tokens_and_means_over_the_chosen_ones() -> None:
    """Of the first row the tokens of log ratio 0.405 (bounded to 0.2) and 0: √e^0.2, times 3/2 tokens."""
    chosen = mx.array([[True, True, False], [True, False, False]])
    result = token_loss_of("gmpo")(tokens(policy_mask=chosen, by_sequence=True), CLIP)
    expected = [[-math.exp(0.1) * 3 / 2], [2 * math.exp(-0.2) * 2]]
    assert mx.allclose(result.loss, mx.array(expected), atol=1e-6)
    assert result.high.tolist() == [[True, False, False], [False, False, False]]
    assert result.low.tolist() == [[False, False, False], [True, False, False]]


def test_weights_of_a_step() -> None:
    assert by_sequence([[3, 2]], 4) == [1 / 6, 1 / 4]
    assert by_sequence_sum([[3, 2]], 4) == [1 / 2, 1 / 2]
    assert by_token([[3, 2]], 4) == [1 / 5, 1 / 5]
    assert by_budget([[3, 2]], 4) == [1 / 8, 1 / 8]
    assert by_forward([[3, 2], [1, 1]], 4) == [1 / 10, 1 / 10, 1 / 4, 1 / 4]


def test_a_completion_that_does_not_count_weighs_nothing_and_dilutes_nothing() -> None:
    forwards = [[3, 0], [0, 0], [2, 1]]
    assert by_sequence(forwards, 4) == [1 / 9, 0, 0, 0, 1 / 6, 1 / 3]
    assert by_sequence_sum(forwards, 4) == [1 / 3, 0, 0, 0, 1 / 3, 1 / 3]
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

        def value(old: mx.array, keys: Config, token_loss: Any = token_loss) -> list[list[float]]:
            return token_loss(tokens(old=old), keys).loss.tolist()

        assert (value(OLD, CLIP) != value(OLD + 0.1, CLIP)) == loss.has_ratio, name
        assert (value(OLD, CLIP) != value(OLD, Config(clip_eps=0.2, delta=1.3))) == loss.has_clip, name
