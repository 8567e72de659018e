"""Truncated importance sampling: weights, losses and gradients by hand, and against a loop of its own."""

import math

import mlx.core as mx
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine.grpo.averaging import AVERAGES
from grpo_cli.engine.grpo.importance_sampling import Correction, WeightStats, summed
from grpo_cli.engine.update.batch import Counting, Microbatch, TrainingSequence, make_microbatches, pad
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.engine.update.objective import Objective, microbatch_loss
from tests.support.gradients import largest_difference
from tests.support.random_models import nanochat_policy, rollout
from tests.support.steps import objective_of
from tests.support.update_groups import TEMPERATURE, sequence_logprobs, step_groups

# Two completions of 3 and 2 tokens, π_old / π_rollout:  2.5, 1, 0.25   and   0.5, 3 (and padding)
MASK = mx.array([[True, True, True], [True, True, False]])
RATIOS = mx.array([[2.5, 1.0, 0.25], [0.5, 3.0, 77.0]])
LOG = mx.log(RATIOS)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token_truncate", [[2.0, 1.0, 0.25], [0.5, 2.0, 1.0]]),
        ("token_mask", [[0.0, 1.0, 0.25], [0.5, 0.0, 1.0]]),
        ("sequence_truncate", [[0.625], [1.5]]),  # 2.5 · 1 · 0.25 and 0.5 · 3
        ("sequence_mask", [[0.625], [1.5]]),
    ],
)
def test_weights_by_hand(mode: str, expected: list[list[float]]) -> None:
    weights = Correction(mode, 2.0).weights(LOG, MASK)
    assert mx.allclose(weights.bounded, mx.array(expected), rtol=1e-6), weights.bounded


def test_a_completion_above_the_cap() -> None:
    for mode, expected in (("sequence_truncate", 1.2), ("sequence_mask", 0.0)):
        weights = Correction(mode, 1.2).weights(LOG, MASK)
        assert weights.bounded.tolist() == [[pytest.approx(0.625)], [pytest.approx(expected)]]
        assert weights.cut.tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("mode", "expected", "cut"),
    [
        ("token_truncate", [[2.0, 1.0, 0.4], [0.5, 2.0, 1.0]], [[True, False, True], [False, True, False]]),
        ("token_mask", [[0.0, 1.0, 0.0], [0.5, 0.0, 1.0]], [[True, False, True], [False, True, False]]),
        ("sequence_truncate", [[0.7], [1.5]], [[True], [False]]),  # 0.625 and 1.5
        ("sequence_mask", [[0.0], [1.5]], [[True], [False]]),
    ],
)
def test_a_lower_bound_by_hand(mode: str, expected: list[list[float]], cut: list[list[bool]]) -> None:
    weights = Correction(mode, 2.0, 0.4 if mode.startswith("token") else 0.7).weights(LOG, MASK)
    assert mx.allclose(weights.bounded, mx.array(expected), rtol=1e-6), weights.bounded
    assert weights.cut.tolist() == cut
    at_the_bound = Correction(mode, 2.0, 1.0).weights(mx.zeros((1, 2)), mx.array([[True, True]]))
    assert not at_the_bound.cut.any().item()


def test_one_ratio_a_completion_has_one_weight_a_completion() -> None:
    token, sequence = Correction("token_mask", 2.0), Correction("sequence_mask", 2.0)
    assert mx.array_equal(token.weights(LOG, MASK, True).bounded, sequence.weights(LOG, MASK).bounded)


def test_the_cap_itself_counts() -> None:
    """1.0 is exact in float32: neither cut nor masked at cap = 1."""
    weights = Correction("token_mask", 1.0).weights(mx.zeros((1, 2)), mx.array([[True, True]]))
    assert weights.bounded.tolist() == [[1.0, 1.0]]
    assert not weights.cut.any().item()


def test_weights_that_would_overflow_stay_numbers() -> None:
    weights = Correction("token_truncate", 2.0).weights(mx.array([[200.0, -200.0]]), mx.array([[True, True]]))
    assert weights.bounded.tolist() == [[2.0, pytest.approx(math.exp(-20))]]
    assert weights.raw[0, 0].item() == pytest.approx(math.exp(20))


def test_the_log_numbers_by_hand() -> None:
    """Padding (77) counts for nothing; a completion's weight counts for each of its tokens."""
    weights = Correction("token_mask", 2.0).weights(LOG, MASK)
    assert summed(weights, MASK).tolist() == pytest.approx([2.5 + 1 + 0.25 + 0.5 + 3, 3.0, 2.0])
    by_sequence = Correction("sequence_mask", 1.2).weights(LOG, MASK)
    assert summed(by_sequence, MASK).tolist() == pytest.approx([3 * 0.625 + 2 * 1.5, 1.5, 2.0])
    spread = WeightStats()
    spread.add(WeightStats(4.5, 2.5, 1.0, 3))
    spread.add(WeightStats(3.5, 3.0, 1.0, 2))
    assert spread.numbers() == {
        "importance_sampling_ratio_mean": 1.6,
        "importance_sampling_ratio_max": 3.0,
        "importance_sampling_capped": 0.4,
    }
    assert set(WeightStats().numbers().values()) == {None}
    spread.add(WeightStats(1.0, math.nan, 0.0, 1))
    assert math.isnan(spread.most)


def test_the_weighted_mean_over_rollouts_is_that_of_the_policy() -> None:
    """The purpose of the weights: E_rollout[w f] = E_policy[f] without a cap, by the sum over all tokens."""
    policy, sampled = mx.array([0.5, 0.2, 0.2, 0.1]), mx.array([0.2, 0.2, 0.2, 0.4])
    value = mx.array([1.0, -1.0, 3.0, 7.0])
    weights = Correction("token_truncate", 1e6).weights(
        (mx.log(policy) - mx.log(sampled))[None], mx.ones((1, 4)) > 0
    )
    assert (sampled * weights.bounded[0] * value).sum().item() == pytest.approx((policy * value).sum().item())


# --- in the loss ---------------------------------------------------------------------------------------


def one_token_batch(sampler: list[float], old: list[float], is_current: bool) -> Microbatch:
    rollouts = [rollout([5, 6, 7], 1.5, sampler)]
    rollouts[0].old_logprobs = [] if is_current else old
    return pad([TrainingSequence([1, 2], one, 0.5) for one in rollouts], True, True)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask"])
@pytest.mark.parametrize("loss_type", ["dapo", "cispo", "reinforce"])
def test_the_first_update_by_hand(mode: str, loss_type: str) -> None:
    """The ratio is exactly 1: Σ 0.5 · w · −A with A = 1.5, and the gradient that of −Σ 0.5 · w · A · logp."""
    policy = nanochat_policy()
    own = sequence_logprobs(policy.model, [1, 2], [5, 6, 7])
    shifts = [0.1, -2.0, 1.0]  # of the sampler's logprobs: w = e^−0.1, e^2 > cap, e^−1
    batch = one_token_batch([x + s for x, s in zip(own.tolist(), shifts, strict=True)], [], True)  # type: ignore[arg-type]
    objective = objective_of(loss_type, TEMPERATURE, 0.2, 0.2, 0.0, correction=Correction(mode, 2.0))
    weights = [math.exp(-0.1), 2.0 if mode == "token_truncate" else 0.0, math.exp(-1.0)]
    gradients, result = accumulate(policy.model, [batch], objective)
    expected = sum(weights) * 0.5 * -1.5
    if loss_type != "dapo":  # −w · A · logp
        expected = sum(0.5 * -1.5 * w * x for w, x in zip(weights, own.tolist(), strict=True))  # type: ignore[arg-type]
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert result.clip_ratio == 0.0

    def plain(parameters: dict[str, mx.array]) -> mx.array:
        policy.model.update(parameters)
        logprobs = sequence_logprobs(policy.model, [1, 2], [5, 6, 7])
        return -(mx.array(weights) * 0.5 * 1.5 * logprobs).sum()

    assert largest_difference(mx.grad(plain)(policy.model.trainable_parameters()), gradients) < 1e-5
    assert result.importance is not None
    assert result.importance.numbers()["importance_sampling_ratio_max"] == pytest.approx(
        math.exp(2.0), rel=1e-4
    )
    assert result.importance.numbers()["importance_sampling_capped"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("loss_type", "mode", "weights"),
    [  # W = e^−0.1 · w · e^−1, φ(W) = W² · e^(3 − 3W)
        ("vespo", "token_truncate", [(2 * math.exp(-1.1)) ** 2 * math.exp(3 - 6 * math.exp(-1.1))] * 3),
        ("vespo", "token_mask", [(1e-8 * math.exp(-1.1)) ** 2 * math.exp(3)] * 3),
        ("dppo", "token_truncate", [math.exp(-0.1), 5.0, math.exp(-1.0)]),  # e^2 = 7.4 is above clip_ratio_c
    ],
)
def test_losses_with_a_correction_of_their_own_by_hand(
    loss_type: str, mode: str, weights: list[float]
) -> None:
    """The first update: Σ 0.5 · weight · −A · logp; the importance weight multiplies nothing else."""
    policy = nanochat_policy()
    own: list[float] = sequence_logprobs(policy.model, [1, 2], [5, 6, 7]).tolist()  # type: ignore[assignment]
    batch = one_token_batch([x + s for x, s in zip(own, (0.1, -2.0, 1.0), strict=True)], [], True)
    objective = objective_of(
        loss_type, TEMPERATURE, 0.2, 0.2, 0.0, correction=Correction(mode, 2.0), clip_ratio_c=5.0
    )
    _, result = accumulate(policy.model, [batch], objective)
    expected = sum(0.5 * -1.5 * w * x for w, x in zip(weights, own, strict=True))
    assert result.loss == pytest.approx(expected, rel=1e-4)
    assert result.clip_ratio == 0.0


def test_a_later_update_has_the_old_policys_weight_and_its_own_ratio() -> None:
    """r = π/π_old is clipped, w = π_old/π_rollout is not touched by the new policy."""
    policy = nanochat_policy()
    own: list[float] = sequence_logprobs(policy.model, [1, 2], [5, 6, 7]).tolist()  # type: ignore[assignment]
    old = [own[0] - math.log(1.5), own[1] - math.log(1.1), own[2] - math.log(0.5)]  # r: 1.5, 1.1, 0.5
    sampler = [old[0] - math.log(0.5), old[1] - math.log(1.5), old[2] - math.log(4.0)]  # w: 0.5, 1.5, 4 → 2
    batch = one_token_batch(sampler, old, is_current=False)
    objective = objective_of("dapo", TEMPERATURE, 0.2, 0.2, 0.0, correction=Correction())
    _, result = accumulate(policy.model, [batch], objective)
    assert result.loss == pytest.approx(0.5 * -1.5 * (0.5 * 1.2 + 1.5 * 1.1 + 2.0 * 0.5), rel=1e-5)
    assert result.clip_ratio_high == pytest.approx(1 / 3)


def test_kl_and_entropy_are_not_weighted() -> None:
    policy = nanochat_policy()
    own: list[float] = sequence_logprobs(policy.model, [1, 2], [5, 6, 7]).tolist()  # type: ignore[assignment]
    batch = one_token_batch([x + 1.0 for x in own], [], True)
    batch.ref_logprobs = mx.array([[x - 0.3 for x in own]])
    losses = {}
    for correction in (None, Correction()):
        for advantage in (0.0, 1.5):
            batch.advantages = mx.array([[advantage]])
            objective = objective_of(
                "dapo", TEMPERATURE, 0.2, 0.2, 0.7, entropy_coeff=0.3, correction=correction
            )
            losses[correction, advantage] = microbatch_loss(policy.model, batch, objective)[0].item()
    assert losses[None, 0.0] == losses[Correction(), 0.0] != 0.0
    assert losses[None, 1.5] - losses[None, 0.0] == pytest.approx(-3 * 0.5 * 1.5, rel=1e-4)
    corrected = losses[Correction(), 1.5] - losses[Correction(), 0.0]
    assert corrected == pytest.approx(-3 * 0.5 * 1.5 * math.exp(-1.0), rel=1e-4)


@pytest.mark.parametrize(
    ("loss_type", "mode"),
    [("dapo", "token_truncate"), ("grpo", "token_mask"), ("dr_grpo", "sequence_truncate"),
     ("bnpo", "sequence_mask"), ("cispo", "token_truncate"), ("gspo", "token_truncate")],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 4])
def test_the_gradient_is_that_of_a_plain_loop(loss_type: str, mode: str, size: int) -> None:
    """On policy r = 1 and ∇r = ∇logp (by sequence their mean): a loop needs only w, A and weights."""
    policy, groups, cap = nanochat_policy(), step_groups()[:2], 1.2
    mx.random.seed(3)
    rows = []
    for one in groups:
        for item in one.rollouts:
            own: list[float] = sequence_logprobs(policy.model, one.prompt_ids, item.token_ids).tolist()  # type: ignore[assignment]
            noise: list[float] = (0.5 * mx.random.normal((len(own),))).tolist()  # type: ignore[assignment]
            item.logprobs = [x - n for x, n in zip(own, noise, strict=True)]
            by_sequence = mode.startswith("sequence") or loss_type == "gspo"
            raw = [math.exp(sum(noise))] * len(own) if by_sequence else [math.exp(n) for n in noise]
            kept = [min(w, cap) if mode.endswith("truncate") else w * (w <= cap) for w in raw]
            rows.append((one.prompt_ids, item, kept))
    weights = AVERAGES[LOSS_TYPES[loss_type].averaging]([[len(item.token_ids) for _, item, _ in rows]], 6)

    def plain(parameters: dict[str, mx.array]) -> mx.array:
        policy.model.update(parameters)
        total = mx.array(0.0)
        for (prompt, item, kept), weight in zip(rows, weights, strict=True):
            logprobs = sequence_logprobs(policy.model, prompt, item.token_ids)
            if loss_type == "gspo":
                logprobs = mx.broadcast_to(logprobs.mean(), logprobs.shape)
            total = total - (mx.array(kept) * weight * item.advantage * logprobs).sum()
        return total

    counting = Counting(prompts_per_forward=2, recompute_old=True, has_other_sampler=True)
    batches = make_microbatches(groups, LOSS_TYPES[loss_type], 6, size, False, counting)
    objective = objective_of(loss_type, TEMPERATURE, 0.2, 0.2, 0.0, correction=Correction(mode, cap))
    gradients, result = accumulate(policy.model, batches, objective)
    expected = mx.grad(plain)(policy.model.trainable_parameters())
    assert largest_difference(expected, gradients) < 1e-5
    assert result.importance is not None
    assert result.importance.cut > 0


def test_halves_have_their_own_rows() -> None:
    batch = pad([TrainingSequence([1], rollout([5, 6], 1.0, [-1.0, -2.0]), 1.0),
                 TrainingSequence([1], rollout([7], 1.0, [-3.0]), 1.0)], True, True)  # fmt: skip
    halves = batch.in_rows(len(batch.rows) // 2)
    found = [half.sampler_logprobs.tolist() for half in halves if half.sampler_logprobs is not None]
    assert found == [[[-1.0, -2.0]], [[-3.0, 0.0]]]


def test_the_configuration_arrives() -> None:
    assert Correction.of(Config()) is None
    assert Objective(Config()).correction is None
    assert not Counting.of(Config()).recompute_old
    config = Config(
        quantize_for_rollouts=True,
        importance_sampling_mode="sequence_mask",
        importance_sampling_cap=3.0,
        importance_sampling_clip_min=0.5,
        steps_per_generation=2,
    )
    assert Objective(config).correction == Correction("sequence_mask", 3.0, 0.5)
    assert Counting.of(config).recompute_old
    assert Counting.of(config).has_other_sampler


def test_without_another_sampler_nothing_is_weighted() -> None:
    """A correction in the objective, and rollouts of the policy itself (before a resume): no w."""
    policy = nanochat_policy()
    batch = pad([TrainingSequence([1, 2], rollout([5, 6], 1.0, [-9.0, -9.0]), 1.0)], recompute_old=True)
    with_correction = objective_of("dapo", 1.0, 0.2, 0.2, 0.0, correction=Correction())
    assert microbatch_loss(policy.model, batch, with_correction)[0].item() == -2.0
