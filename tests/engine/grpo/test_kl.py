"""KL estimators and the entropy by hand: values and gradients."""

import math

import mlx.core as mx
import pytest

from grpo_cli.engine.grpo.entropy import high_entropy_threshold, logprobs_and_entropies
from grpo_cli.engine.grpo.kl import corrected, k1_divergence, k3_divergence

# ref − logp = ln 2, 0, −ln 2
LOGPROBS = mx.array([[-1.0, -1.0, -1.0]])
LN2 = math.log(2)
REF = LOGPROBS + mx.array([[LN2, 0.0, -LN2]])


def test_k3_by_hand() -> None:
    # 2 − ln 2 − 1; 0; 0.5 + ln 2 − 1
    expected = [[1 - LN2, 0.0, LN2 - 0.5]]
    assert mx.allclose(k3_divergence(LOGPROBS, REF), mx.array(expected), atol=1e-6)
    # d k3 / d logp = 1 − exp(ref − logp)
    gradient = mx.grad(lambda value: k3_divergence(value, REF).sum())(LOGPROBS)
    assert mx.allclose(gradient, mx.array([[-1.0, 0.0, 0.5]]), atol=1e-6)


def test_k1_by_hand() -> None:
    assert mx.allclose(k1_divergence(LOGPROBS, REF), mx.array([[-LN2, 0.0, LN2]]), atol=1e-6)
    gradient = mx.grad(lambda value: k1_divergence(value, REF).sum())(LOGPROBS)
    assert mx.allclose(gradient, mx.array([[1.0, 1.0, 1.0]]))


def test_the_bias_corrected_k3_by_hand() -> None:
    old = LOGPROBS - mx.log(mx.array([[2.0, 2.0, 0.5]]))  # ratios 2, 2, 1/2

    def divergence(logprobs: mx.array) -> mx.array:
        return corrected(k3_divergence(logprobs, REF), logprobs - old)

    expected = [[2 * (1 - LN2), 0.0, 0.5 * (LN2 - 0.5)]]
    assert mx.allclose(divergence(LOGPROBS), mx.array(expected), atol=1e-6)
    # d (r · k3) / d logp = r · (k3 + 1 − exp(ref − logp)) = r · (logp − ref)
    gradient = mx.grad(lambda logprobs: divergence(logprobs).sum())(LOGPROBS)
    assert mx.allclose(gradient, mx.array([[2 * -LN2, 0.0, 0.5 * LN2]]), atol=1e-6)


@pytest.mark.parametrize("estimator", [k1_divergence, k3_divergence])
def test_corrected_on_average_it_has_the_gradient_of_the_kl(estimator) -> None:  # type: ignore[no-untyped-def]
    """Over three tokens drawn from an old policy, E[r · k] and its gradient are the KL's."""
    logits, ref, old = (mx.array(values) for values in ([0.3, -0.5, 1.0], [0.0, 0.4, -0.2], [0.5, 0.1, 0.2]))

    def logprobs(values: mx.array) -> mx.array:
        return values - mx.logsumexp(values)

    def exact(values: mx.array) -> mx.array:
        return (mx.exp(logprobs(values)) * (logprobs(values) - logprobs(ref))).sum()

    def expected(values: mx.array) -> mx.array:
        estimate = estimator(logprobs(values), logprobs(ref))
        return (mx.exp(logprobs(old)) * corrected(estimate, logprobs(values) - logprobs(old))).sum()

    (value, gradient), (kl, kl_gradient) = (mx.value_and_grad(f)(logits) for f in (expected, exact))
    assert value.item() == pytest.approx(kl.item(), abs=1e-6)
    assert mx.allclose(gradient, kl_gradient, atol=1e-6)


def entropies_of(logits: mx.array) -> mx.array:
    return logprobs_and_entropies(logits, mx.zeros(logits.shape[:-1], dtype=mx.int32))[1]


def test_entropy_by_hand() -> None:
    # p = 1/2, 1/4, 1/4: H = 1.5 ln 2; d H / d logit = −p · (log p + H)
    logits = mx.log(mx.array([[[2.0, 1.0, 1.0]]]))
    assert entropies_of(logits).item() == pytest.approx(1.5 * LN2, abs=1e-6)
    gradient = mx.grad(lambda values: entropies_of(values).sum())(logits)
    expected = [-0.5 * (-LN2 + 1.5 * LN2), -0.25 * (-2 * LN2 + 1.5 * LN2), -0.25 * (-2 * LN2 + 1.5 * LN2)]
    assert mx.allclose(gradient, mx.array([[expected]]), atol=1e-6)


def test_both_scores_in_one_pass_by_hand() -> None:
    """p = 1/2, 1/4, 1/4, target 1: log p = −2 ln 2, with the slope [v = 1] − p; weighted 3 and 2."""
    logits, target = mx.log(mx.array([[[2.0, 1.0, 1.0]]])), mx.array([[1]])

    def loss(values: mx.array) -> mx.array:
        logprobs, entropies = logprobs_and_entropies(values, target)
        return (3 * logprobs + 2 * entropies).sum()

    value, gradient = mx.value_and_grad(loss)(logits)
    assert value.item() == pytest.approx(3 * -2 * LN2 + 2 * 1.5 * LN2, abs=1e-6)
    of_entropy = [-0.25 * LN2, 0.125 * LN2, 0.125 * LN2]  # −p · (log p + 1.5 ln 2)
    expected = [3 * s + 2 * e for s, e in zip([-0.5, 0.75, -0.25], of_entropy, strict=True)]
    assert mx.allclose(gradient, mx.array([[expected]]), atol=1e-6)


def test_a_token_that_is_ruled_out_has_no_share_in_the_entropy() -> None:
    logits = mx.array([[[math.log(2.0), 0.0, 0.0, -math.inf]]])
    value, gradient = mx.value_and_grad(lambda values: entropies_of(values).sum())(logits)
    assert value.item() == pytest.approx(1.5 * LN2, abs=1e-6)
    assert gradient[0, 0, 3].item() == 0.0
    assert gradient[0, 0, 0].item() == pytest.approx(-0.25 * LN2, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "expected"),
    [  # the quantile 1 − share of 1 to 5, at place (1 − share) · 4 of the sorted
        (0.25, 4.0), (0.2, 4.2), (0.5, 3.0), (0.9, 1.4), (1e-9, 5.0),
    ],
)  # fmt: skip
def test_the_threshold_of_high_entropy(share: float, expected: float) -> None:
    assert high_entropy_threshold([3.0, 1.0, 5.0, 2.0, 4.0], share) == pytest.approx(expected)


def test_the_threshold_of_few_tokens() -> None:
    assert high_entropy_threshold([2.0], 0.3) == 2.0
    assert high_entropy_threshold([], 0.3) == -math.inf
