"""Repetition of completions, against counts by hand."""

import pytest

from grpo_cli.engine.metrics import repetition, rollout_metrics
from tests.support.random_models import group, rollout


@pytest.mark.parametrize(
    ("items", "share"),
    [
        ([], 0.0),
        ([1, 2, 3, 4, 5, 6, 7, 8], 0.0),  # 5 four-grams, all different
        ([7] * 7, 0.0),  # too short to say
        ([7] * 8, 0.8),  # 5 four-grams, one distinct: 1 - 1/5
        ([1, 2, 3, 4, 1, 2, 3, 4], 0.2),  # 1234 2341 3412 4123 1234: 4 of 5 distinct
        ([1, 2, 3, 4] * 3, 5 / 9),  # 9 four-grams, 4 distinct
        (2 * ["The", "capital", "of", "France", "is", "Paris."], 1 / 3),  # 6 of 9
    ],
)
def test_repetition_is_the_share_of_four_grams_that_came_before(items: list[object], share: float) -> None:
    assert repetition(items) == pytest.approx(share, abs=1e-12)


def test_a_steps_repetition_is_the_mean_over_its_completions() -> None:
    groups = [
        group([1], [rollout([7] * 8), rollout([1, 2, 3, 4, 5, 6, 7, 8])]),  # 0.8, 0
        group([1], [rollout([1, 2, 3, 4, 1, 2, 3, 4]), rollout([5])]),  # 0.2, 0
    ]
    for one in groups:
        for each in one.rollouts:
            each.rewards = {"correctness": 0.0}
    assert rollout_metrics(groups)["repetition"] == pytest.approx(0.25, abs=1e-12)
