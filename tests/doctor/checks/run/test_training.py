"""Findings about updates, from logs written by hand: gradients, skipped updates, KL and time."""

from pathlib import Path

import pytest

from tests.support.run_logs import (
    TroubleCase,
    case_name,
    check_trouble,
    evaluation,
    examine,
    steps,
    written,
)

CASES: list[TroubleCase] = [
    (
        "grad-norm-high",
        steps(9, grad_norm=lambda s: 30.0 if s == 2 else 0.5),
        {},
        "warning",
        "highest gradient norm 30, in step 2; above 10 in 1 of 9 steps, and it came down again",
        "learning_rate = 2e-07 max_grad_norm = 1.0",
    ),
    (
        "grad-norm-high",
        steps(9, grad_norm=lambda s: 10.0 + s),
        {},
        "warning",
        "above 10 in 9 of 9 steps, and it stays so (100 % of the last steps)",
        "lower the learning rate learning_rate = 2e-07",
    ),
    (
        "kl-high",
        steps(15, kl=lambda s: 0.1 * s),
        {"kl_coeff": 0.05},
        "warning",
        "KL 1.3 nats a token in the last 5 steps (0.3 at the start)",
        "kl_coeff = 0.1",
    ),
    (
        "kl-high",
        steps(15, kl=lambda s: 0.02 * s, reward_mean=lambda s: 2.0 - 0.1 * s),
        {"kl_coeff": 0.01},
        "warning",
        "KL 0.26 nats a token in the last 5 steps (0.06 at the start), while the rewards fell",
        "kl_coeff = 0.04",
    ),
    (
        "time-split",
        [evaluation(0, 0.4, seconds=300), *steps(20), evaluation(20, 0.9, seconds=300)],
        {"eval_steps": 10},
        "warning",
        "evaluations take 75 % of the run",
        "eval_steps = 20 eval_samples = 100",
    ),
    (
        "time-split",
        steps(20, rollout_seconds=1.0, update_seconds=1.0),
        {},
        "warning",
        "10 s a step: rollouts 10 %, update 10 %, rest 80 %",
        "check whether a reward waits for something",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_each_trouble_is_told_with_its_numbers_and_its_cure(tmp_path: Path, case: TroubleCase) -> None:
    check_trouble(tmp_path, case)


def test_a_run_without_a_reference_has_no_kl(tmp_path: Path) -> None:
    without = [{key: value for key, value in line.items() if key != "kl"} for line in steps(9)]
    for lines in (steps(9), without):
        found = examine(written(tmp_path, lines))
        assert found["kl-high"].severity == "skipped"
        assert found["kl-high"].seen == "the run had no reference to compare with: kl_coeff = 0"
        assert found["run-log"].severity == "ok"


def test_skipped_updates_are_located_and_counted_in_a_row(tmp_path: Path) -> None:
    lines = steps(9)
    for place in (2, 5, 6, 7):
        lines[place] |= {"loss": None, "grad_norm": None, "skipped": f"gradient of layer {place}"}
    finding = examine(written(tmp_path, lines))["nan-gradient"]
    assert finding.severity == "error"
    assert finding.seen == (
        "4 of 9 updates were skipped, at most 3 in a row; the first in step 3: "
        "NaN or infinite gradient of layer 2"
    )
    assert finding.commands == (
        f"grpo resume {tmp_path} --set learning_rate=2e-07",
        "learning_rate = 2e-07",
        "max_grad_norm = 0.1",
        'dtype = "float32"',
    )
    assert finding.numbers == {"skipped_updates": 4, "in_a_row": 3, "where": "gradient of layer 2"}
    lines = steps(9, lr=5e-5)
    lines[4] |= {"skipped": "weight of lm_head"}
    finding = examine(written(tmp_path, lines, dtype="float32"))["nan-gradient"]
    assert (finding.severity, finding.numbers["in_a_row"]) == ("warning", 1)
    assert finding.commands[1:] == ("learning_rate = 1e-06", "max_grad_norm = 0.1")
