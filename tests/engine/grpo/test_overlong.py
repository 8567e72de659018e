"""The soft overlong penalty by hand, and where it goes."""

from pathlib import Path

import pytest

from grpo_cli.engine.grpo.overlong import punish_overlong, soft_overlong
from grpo_cli.engine.train import train
from tests.support.random_models import group, rollout
from tests.support.small_runs import lines, small


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, 0.0), (79, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (120, -1.0)],
)
def test_dapos_equation_13(length: int, expected: float) -> None:
    assert soft_overlong(length, 100, 20) == pytest.approx(expected)


def test_the_penalty_is_added_to_the_reward() -> None:
    made = group([1], [rollout([2] * 4), rollout([2] * 9), rollout([2] * 10)])
    for item in made.rollouts:
        item.rewards, item.reward = {"correctness": 1.0}, 2.0
    punish_overlong([made], 10, 4)
    assert [item.reward for item in made.rollouts] == [2.0, 1.25, 1.0]
    assert made.rollouts[1].rewards == {"correctness": 1.0, "soft_overlong": -0.75}


def test_without_it_nothing_is_added() -> None:
    made = group([1], [rollout([2] * 10)])
    made.rollouts[0].reward = 2.0
    punish_overlong([made], 10, 0)
    assert (made.rollouts[0].reward, made.rollouts[0].rewards) == (2.0, {})


def test_a_reward_of_that_name_keeps_it() -> None:
    made = group([1], [rollout([2] * 10)])
    made.rollouts[0].rewards = {"soft_overlong": 0.5}
    punish_overlong([made], 10, 2)
    assert made.rollouts[0].rewards == {"soft_overlong": 0.5, "soft_overlong_2": -1.0}


def test_a_run_learns_from_it_and_logs_it(tmp_path: Path) -> None:
    """Every completion is cut off at 4 tokens: all lose 1."""
    train(small(tmp_path, max_new_tokens=4, soft_overlong_tokens=2, max_steps=1, batch_size=1))
    (line,) = lines(tmp_path / "run")
    assert line["truncated_fraction"] == 1.0
    assert line["rewards/soft_overlong"] == -1.0
    assert line["reward_mean"] == line["rewards/correctness"] - 1.0
