"""Adaptive entropy: the controller by hand, its bonus in the loss, and a few updates."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.grpo.adaptive_entropy import applied_coefficient, next_coefficient
from grpo_cli.engine.setup import prepare
from grpo_cli.engine.update.batch import TrainingSequence, pad
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.engine.update_policy import make_batches, update_policy
from tests.support.gradients import largest_difference
from tests.support.random_models import nanochat_policy, rollout
from tests.support.small_runs import small
from tests.support.steps import objective_of, scored_groups

KEYS = Config(use_adaptive_entropy=True, entropy_coeff_max=0.012, entropy_coeff_min=0.002)


@pytest.mark.parametrize(
    ("coefficient", "entropy", "after"),
    [(0.005, 0.1, 0.01), (0.005, 0.2, 0.01), (0.01, 0.1, 0.012), (0.01, 0.3, 0.005), (0.005, 0.3, 0.002)],
)
def test_one_step_up_or_down_within_the_bounds(coefficient: float, entropy: float, after: float) -> None:
    """Steps of 0.005, target 0.2."""
    assert next_coefficient(KEYS, coefficient, entropy) == pytest.approx(after)


def test_an_entropy_that_is_no_number_changes_nothing() -> None:
    assert next_coefficient(KEYS, 0.004, math.nan) == 0.004


def test_the_bonus_is_applied_at_or_below_the_target() -> None:
    found = [applied_coefficient(KEYS, 0.01, entropy) for entropy in (None, 0.1, 0.2, 0.21)]
    assert found == [0.0, 0.01, 0.01, 0.0]


def test_the_bonus_in_the_loss_is_the_configured_ones_of_that_coefficient() -> None:
    policy = nanochat_policy()
    sequences = [TrainingSequence([1, 2], rollout(ids, 1.5), 0.5) for ids in ([5, 6, 7], [8])]
    batch = pad(sequences)
    fixed, result = accumulate(
        policy.model, [batch], objective_of("dapo", 0.8, 0.2, 0.2, 0.0, entropy_coeff=0.3)
    )
    batch.entropy_coeffs = mx.full((2, 1), 0.3)
    adaptive = objective_of("dapo", 0.8, 0.2, 0.2, 0.0, use_adaptive_entropy=True, entropy_coeff=9.0)
    for rows in ([batch], batch.in_rows(len(batch.rows) // 2)):
        gradients, found = accumulate(policy.model, rows, adaptive)
        assert found.loss == pytest.approx(result.loss, rel=1e-6)
        assert largest_difference(fixed, gradients) < 1e-6
        assert found.entropy == pytest.approx(result.entropy)
    assert 0 < (result.entropy or 0) < math.log(256)


def test_three_updates(tmp_path: Path) -> None:
    """Target above, then below the entropy: the first update has no bonus, the second one has the first's."""
    adaptive: dict[str, Any] = {"use_adaptive_entropy": True, "entropy_coeff": 0.01, "entropy_target": 50.0}
    run = prepare(small(tmp_path, max_steps=3, num_iterations=3, **adaptive))
    batches = make_batches(run, scored_groups(run))
    logged, used = [], []
    for step, target in ((1, 50.0), (2, 50.0), (3, 0.0)):
        run.config = run.config.model_copy(update={"entropy_target": target})
        logged.append(update_policy(run, step, batches)["entropy_coeff"])
        (coefficient,) = {
            batch.entropy_coeffs.max().item() for batch in batches if batch.entropy_coeffs is not None
        }
        used.append(coefficient)
    assert logged == pytest.approx([0.015, 0.02, 0.015])
    assert used == pytest.approx([0.0, 0.015, 0.0])
    assert run.state.last_entropy is not None
    assert run.state.entropy_coeff == logged[-1]
    run.close()
