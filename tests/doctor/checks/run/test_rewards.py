"""Findings about rewards, from logs written by hand: all zero, all equal, or too high."""

from pathlib import Path

import pytest

from tests.support.run_logs import (
    TroubleCase,
    case_name,
    check_trouble,
    examine,
    steps,
    troubles,
    written,
)


def high_once(step: int) -> float:
    """A mean reward that is above 10 in step 7."""
    return 50.0 if step == 7 else 9.0


CASES: list[TroubleCase] = [
    (
        "rewards-zero",
        steps(12, reward_mean=lambda s: 0.5 * (s < 4), reward_std=lambda s: 0.5 * (s < 4)),
        {},
        "warning",
        "the mean reward is 0 in all steps after step 3",
        "start again with a lower learning rate learning_rate = 2e-07",
    ),
    (
        "nothing-to-learn",
        steps(20, zero_std_fraction=0.9),
        {"temperature": 0.3},
        "warning",
        "all rewards are equal in 90 % of the groups of the last 6 steps",
        "temperature = 0.7 num_generations = 16",
    ),
    (
        "identical-completions",
        steps(20, entropy=0.0),
        {"temperature": 0.9},
        "warning",
        "entropy 0 nats a token in the last 6 steps at temperature 0.9",
        "temperature = 1.35 learning_rate = 2e-07",
    ),
    (
        "reward-high",
        steps(10, reward_mean=high_once, **{"rewards/correctness": 50.0, "rewards/int": 0.0}),
        {"reward_functions": ["correctness", "int"]},
        "warning",
        "highest mean reward 50, in step 7; above 10 in 1 of 10 steps",
        "reward_weights = [0.02, 1.0]",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_each_trouble_is_told_with_its_numbers_and_its_cure(tmp_path: Path, case: TroubleCase) -> None:
    check_trouble(tmp_path, case)


def test_equal_groups_teach_where_the_batch_is_the_baseline(tmp_path: Path) -> None:
    found = examine(written(tmp_path, steps(20, zero_std_fraction=0.9)))
    assert found["nothing-to-learn"].severity == "warning"
    found = examine(
        written(tmp_path, steps(20, zero_std_fraction=0.9), advantage_estimator="reinforce_plus_plus")
    )
    assert found["nothing-to-learn"].severity == "ok"


def test_groups_of_one_text_are_told_where_they_are_logged(tmp_path: Path) -> None:
    same = tuple({"step": s, "prompt": "p", "completion": "x"} for s in range(8) for _ in range(2))
    finding = examine(written(tmp_path, steps(8), same))["identical-completions"]
    assert finding.severity == "warning"
    assert "8 of 8 logged groups are the same text throughout" in finding.seen


def test_a_run_without_any_reward_is_told_once(tmp_path: Path) -> None:
    unscored = {"reward_mean": None, "rewards/correctness": None, "unscored_fraction": 1.0}
    found = examine(written(tmp_path, steps(6, zero_std_fraction=1.0, reward_std=0.0, **unscored)))
    zero = found["rewards-zero"]
    assert (zero.severity, zero.seen) == ("error", "no reward applies to any completion of all 6 steps")
    assert zero.cure.startswith("every reward returned None: call one by itself on a row of the dataset")
    assert found["nothing-to-learn"].severity == "skipped"
    assert troubles(found) == {"rewards-zero": "error"}
