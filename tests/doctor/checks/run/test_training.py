"""Findings about a run's log, from logs written by hand."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.doctor.checks.run.progress import interval, rise
from tests.doctor.logs import NAMES, evaluation, examine, steps, troubles, written


def test_a_healthy_log_gets_no_warning(tmp_path: Path) -> None:
    found = examine(written(tmp_path, [evaluation(0, 0.3), *steps(30), evaluation(30, 0.6)]))
    assert list(found) == NAMES
    assert troubles(found) == {}
    assert found["time-split"].seen.splitlines() == [
        "10 s a step: rollouts 60 %, update 30 %, rest 10 %; 100 tokens/s, at most 4.0 GB; evaluations take "
        "3 % of the run",
        "rollouts are the larger part: `max_new_tokens` and `num_generations` shorten them (now 512 and 8)",
    ]


def high_once(step: int) -> float:
    """A mean reward that is above 10 in step 7."""
    return 50.0 if step == 7 else 9.0


CASES = [
    # name, lines, settings, severity, a part of what was seen, of the cure with its lines
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
        "collapse",
        [evaluation(0, 0.4), *steps(20), evaluation(10, 0.8), evaluation(20, 0.5)],
        {},
        "warning",
        "accuracy 40.0 % (33 to 47; step 0), then 80.0 % (74 to 85; step 10), then 50.0 % (43 to 57; ",
        "kl_coeff = 0.04",
    ),
    (
        "collapse",
        steps(15, reward_mean=lambda s: (1.5 if s <= 5 else 0.5) + 0.01 * (s % 2)),
        {"kl_coeff": 0.1},
        "warning",
        "mean reward 1.51 at the start, 0.51 at the end",
        "learning_rate = 2e-07",
    ),
    (
        "length-collapse",
        steps(12, completion_length_mean=lambda s: 100.0 if s <= 4 else 2.0),
        {},
        "warning",
        "100.0 tokens at the start, 2.0 at the end",
        "kl_coeff = 0.04",
    ),
    (
        "truncation",
        steps(12, truncated_fraction=0.5),
        {"max_new_tokens": 300},
        "warning",
        "50 % of the completions of the last 5 steps are cut off by max_new_tokens = 300",
        "max_new_tokens = 608",
    ),
    (
        "repetition",
        steps(12, repetition=0.6),
        {"temperature": 0.5},
        "warning",
        "60 % of the 4-grams of the tokens of the last 5 steps repeat earlier ones",
        "temperature = 0.8",
    ),
    (
        "accuracy-flat",
        [evaluation(0, 0.4), *steps(30), evaluation(15, 0.42), evaluation(30, 0.45)],
        {},
        "warning",
        "accuracy 40.0 % (33 to 47; step 0), then 45.0 % (38 to 52; step 30): no change beyond its interval",
        "--samples 400 eval_samples = 400",
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


@pytest.mark.parametrize(
    ("name", "lines", "settings", "severity", "seen", "cure"),
    CASES,
    ids=[f"{case[0]}-{place}" for place, case in enumerate(CASES)],
)
def test_each_trouble_is_told_with_its_numbers_and_its_cure(
    tmp_path: Path,
    name: str,
    lines: list[dict[str, Any]],
    settings: dict[str, Any],
    severity: str,
    seen: str,
    cure: str,
) -> None:
    found = examine(written(tmp_path, lines, **settings))
    assert found[name].severity == severity
    assert set(troubles(found)) <= {name, "collapse"}  # rewards that fell are told there, too
    assert seen in found[name].seen
    assert cure in " ".join([found[name].cure, *found[name].commands])


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


def test_a_flat_accuracy_is_news_from_twenty_steps_on(tmp_path: Path) -> None:
    """Three evaluations, 320 completions a step: only the steps are few."""
    for last, severity in ((19, "skipped"), (20, "warning")):
        evaluated = [evaluation(step, 0.4) for step in (0, 10, last)]
        settings = {"batch_size": 20, "num_generations": 16}
        found = examine(written(tmp_path, [*evaluated, *steps(last)], **settings))
        assert found["accuracy-flat"].severity == severity


@pytest.mark.parametrize(("share", "severity"), [(0.25, "ok"), (0.26, "warning"), (0.31, "warning")])
def test_repetition_is_told_from_a_quarter_on(tmp_path: Path, share: float, severity: str) -> None:
    """0.33 is a sentence that is said twice."""
    assert examine(written(tmp_path, steps(12, repetition=share)))["repetition"].severity == severity


def test_a_run_without_a_reference_has_no_kl(tmp_path: Path) -> None:
    without = [{key: value for key, value in line.items() if key != "kl"} for line in steps(9)]
    for lines in (steps(9), without):
        found = examine(written(tmp_path, lines))
        assert found["kl-high"].severity == "skipped"
        assert found["kl-high"].seen == "the run had no reference to compare with: kl_coeff = 0"
        assert found["run-log"].severity == "ok"


def test_metrics_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    lines = steps(9, kl=float("nan"), loss=lambda s: float("inf") if s == 4 else 0.1)
    found = examine(written(tmp_path, lines, kl_coeff=0.04))
    assert troubles(found) == {"run-log": "warning"}
    log = found["run-log"]
    assert log.seen == "NaN or infinite in 2 metrics: kl in 9 lines, loss in 1 line"
    assert log.numbers["not_finite"] == {"kl": 9, "loss": 1}
    assert log.commands == (f"grep -nE 'NaN|Infinity' {tmp_path}/training_log.jsonl", "learning_rate = 2e-07")
    assert found["kl-high"].seen == "no logged KL is a finite number: see run-log and nan-gradient"
    some = examine(written(tmp_path, steps(9, kl=lambda s: 0.01 if s < 7 else float("nan")), kl_coeff=0.04))
    assert some["run-log"].seen == "NaN or infinite in 1 metric: kl in 3 lines"
    assert some["kl-high"].severity == "ok"


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


def test_a_log_without_repetition_is_judged_by_the_completions_words(tmp_path: Path) -> None:
    lines = [{k: v for k, v in line.items() if k != "repetition"} for line in steps(12)]
    loop = tuple({"step": s, "completion": "The capital of France is Paris. " * 4} for s in range(1, 13))
    finding = examine(written(tmp_path, lines, loop))["repetition"]
    assert finding.severity == "warning"
    assert finding.numbers["repetition"] == pytest.approx(1 - 6 / 21)
    assert finding.seen.startswith("71 % of the 4-grams of the words of the last 5 logged completions")
    finding = examine(written(tmp_path, lines))["repetition"]
    assert finding.seen == "neither the log nor completions.jsonl shows repetition"


def test_groups_of_one_text_are_told_where_they_are_logged(tmp_path: Path) -> None:
    same = tuple({"step": s, "prompt": "p", "completion": "x"} for s in range(8) for _ in range(2))
    finding = examine(written(tmp_path, steps(8), same))["identical-completions"]
    assert finding.severity == "warning"
    assert "8 of 8 logged groups are the same text throughout" in finding.seen


def test_a_best_checkpoint_that_is_there_is_gone_back_to(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-10").mkdir()
    lines = [evaluation(0, 0.4), *steps(20), evaluation(10, 0.8), evaluation(20, 0.1)]
    finding = examine(written(tmp_path, lines))["collapse"]
    assert finding.severity == "error"
    assert finding.commands[-1] == f"grpo resume {tmp_path}/checkpoint-10 --set learning_rate=2e-07"


def test_intervals_and_differences_against_numbers_by_hand() -> None:
    low, high = interval((0, 0.8, 10))
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    # variances 1 and 1 of three each: 4 / sqrt(1/3 + 1/3)
    assert rise([1, 2, 3], [5, 6, 7]) == pytest.approx(4 / (2 / 3) ** 0.5)
    assert rise([1, 1], [2, 2]) == 100.0
    assert rise([1, 1], [1, 1]) == 0.0
