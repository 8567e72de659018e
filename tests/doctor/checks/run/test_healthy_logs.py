"""Logs without a trouble: no check of a run may warn of one."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.run_logs import NAMES, evaluation, examine, steps, troubles, written


def test_a_healthy_log_gets_no_warning(tmp_path: Path) -> None:
    found = examine(written(tmp_path, [evaluation(0, 0.3), *steps(30), evaluation(30, 0.6)]))
    assert list(found) == NAMES
    assert troubles(found) == {}
    assert found["time-split"].seen.splitlines() == [
        "10 s a step: rollouts 60 %, update 30 %, rest 10 %; 100 tokens/s, at most 4.0 GB; evaluations take "
        "3 % of the run",
        "rollouts are the larger part: `max_new_tokens` and `num_generations` shorten them (now 512 and 8)",
    ]


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        # All right by now: no group differs, the policy is certain, and its texts resemble one another.
        (
            [evaluation(0, 0.4), *steps(30, zero_std_fraction=1.0, entropy=0.0), evaluation(30, 1.0)],
            {},
        ),
        (steps(30, **{"rewards/correctness": 2.0}, reward_mean=2.0, zero_std_fraction=1.0, entropy=0.0), {}),
        # A user's reward that rose to the most it gives.
        (
            [
                {k: v for k, v in line.items() if k != "rewards/correctness"}
                for line in steps(
                    30, reward_mean=lambda s: min(1.0, s / 15), zero_std_fraction=lambda s: float(s > 15)
                )
            ],
            {"reward_functions": ["x.py:mine"]},
        ),
        # Brief, and better for it.
        (steps(12, completion_length_mean=lambda s: 100.0 / s**2, reward_mean=lambda s: s / 10), {}),
        # Penalties that ended.
        (steps(12, reward_mean=lambda s: min(0.0, s - 7.0), reward_std=lambda s: float(s < 7)), {}),
        # Rewards around zero that differ.
        (steps(12, reward_mean=0.0, reward_std=0.5), {}),
        # Young yet: 30 steps of 4 completions. And short: evaluations take most of 20 seconds.
        (
            [*steps(30), *(evaluation(step, 0.4) for step in (0, 15, 30))],
            {"batch_size": 1, "gradient_accumulation_steps": 1, "num_generations": 4},
        ),
        (
            [evaluation(0, 0.4, seconds=15), *steps(30, step_seconds=0.1, rollout_seconds=0.01)],
            {},
        ),
        # Right from the start, and flat there.
        ([evaluation(0, 0.97), *steps(30), evaluation(15, 0.98), evaluation(30, 0.97)], {}),
        # What is sampled gets better before the greedy answers do.
        (
            [*steps(30, reward_mean=lambda s: s / 30), *(evaluation(step, 0.4) for step in (0, 9, 30))],
            {},
        ),
        # One prompt a step: five equal groups of six are chance.
        (
            steps(6, zero_std_fraction=lambda s: float(s != 1)),
            {"batch_size": 1, "gradient_accumulation_steps": 1},
        ),
        # Too short to tell.
        ([evaluation(0, 0.4), *steps(4, reward_mean=0.0, reward_std=0.0), evaluation(4, 0.4)], {}),
        # A reward that is alone drowns none.
        (steps(12, reward_mean=50.0, **{"rewards/correctness": 50.0}), {}),
        # Several updates a rollout: rollouts take no time in every other step.
        (steps(20, rollout_seconds=lambda s: 8.0 * (s % 2), step_seconds=lambda s: 3.1 + 8.0 * (s % 2)), {}),
    ],
)  # fmt: skip
def test_what_looks_like_a_trouble_and_is_none(
    tmp_path: Path, lines: list[dict[str, Any]], settings: dict[str, Any]
) -> None:
    assert troubles(examine(written(tmp_path, lines, **settings))) == {}
