"""What a run's log says: real runs of the embedded model, and logs written by hand."""

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.render import dump_config
from grpo_cli.config.schema import Config
from grpo_cli.doctor.case import Case
from grpo_cli.doctor.checks import CHECKS
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.progress import interval, rise
from grpo_cli.doctor.run import diagnose
from grpo_cli.engine import run
from tests.engine.test_trainer import small

RUN_CHECKS = [check for check in CHECKS if check.subject == "run"]
NAMES = [check.name for check in RUN_CHECKS]


def examine(folder: Path, asked: tuple[str, ...] = ()) -> dict[str, Finding]:
    """The findings of the run checks by name; each check gives at most one."""
    checks = [check for check in RUN_CHECKS if not asked or check.name in asked]
    findings = list(diagnose(Case(run=folder, asked=frozenset(asked)), checks))
    assert len({finding.name for finding in findings}) == len(findings)
    assert not [finding for finding in findings if "check itself failed" in finding.seen]
    json.dumps([finding.as_row() for finding in findings], allow_nan=False)
    return {finding.name: finding for finding in findings}


def troubles(found: dict[str, Finding]) -> dict[str, str]:
    """Severity of what is not well."""
    return {name: f.severity for name, f in found.items() if f.severity in ("warning", "error")}


# --- real runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with runs: one that learns, and four with a trouble each."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "mine.py").write_text(
        "def never(completions, **columns):\n    return [0.0] * len(completions)\n"
    )
    learns = {"lora_rank": 8, "learning_rate": 1e-3, "batch_size": 8, "eval_steps": 10, "eval_samples": 60}
    learns["temperature"] = 1.2  # at 1.0 the last groups are too sure to differ
    run.train(small(folder, run_name="learns", max_steps=20, **learns))
    short: dict[str, Any] = {"max_steps": 6, "batch_size": 2, "eval_steps": 6, "eval_samples": 30}
    run.train(small(folder, run_name="zero", reward_functions=[f"{folder}/mine.py:never"], **short))
    run.train(small(folder, run_name="rate", learning_rate=10.0, **short))
    run.train(small(folder, run_name="cold", temperature=0.001, **short))
    run.train(small(folder, run_name="two", max_new_tokens=2, **short))
    yield folder


def test_a_run_that_learns_gets_no_warning(runs: Path) -> None:
    found = examine(runs / "learns")
    assert list(found) == NAMES
    assert troubles(found) == {}
    assert found["run-log"].numbers == {"steps": 20, "evaluations": 3, "broken_lines": 0}
    assert found["collapse"].numbers["accuracies"][-1] > 0.9
    assert found["kl-high"].severity == "skipped"
    assert found["repetition"].numbers["repetition"] < 0.05
    split = found["time-split"].numbers
    parts = split["rollouts_seconds"] + split["update_seconds"] + split["rest_seconds"]
    assert parts == pytest.approx(split["step_seconds"], rel=1e-6)


def test_a_reward_that_is_always_zero_is_named_with_a_completion(runs: Path) -> None:
    found = examine(runs / "zero")
    zero = found["rewards-zero"]
    assert troubles(found) == {"rewards-zero": "error", "nothing-to-learn": "warning"}
    assert zero.seen == "the mean reward is 0 in all 6 steps: rewards/never 0"
    assert zero.commands[:2] == ("num_generations = 16", "max_new_tokens = 128")
    functions = [f"{runs}/mine.py:never", "int", "strict_format", "soft_format", "xmlcount"]
    assert zero.commands[2] == f"reward_functions = {json.dumps(functions)}"
    last = json.loads((runs / "zero" / "completions.jsonl").read_text().splitlines()[-1])
    assert zero.commands[3] == (f"# step 6, reward 0, right answer {last['answer']}: {last['completion']}")
    evaluation = f"grpo eval --model tiny --config {runs}/zero/config.toml --num-generations 8"
    assert zero.commands[4] == evaluation
    assert zero.why.startswith("Completions that all get nothing cannot be told apart")


def test_a_learning_rate_of_ten_is_named(runs: Path) -> None:
    found = examine(runs / "rate")
    wrong = troubles(found)
    assert wrong.pop("collapse") == "error"
    assert set(wrong) <= {"rewards-zero", "nothing-to-learn", "truncation", "grad-norm-high", "nan-gradient"}
    assert found["collapse"].cure == "learning_rate = 10 is what breaks it: the usual ones are below 0.001"
    assert found["collapse"].commands[0] == "learning_rate = 5e-06"
    for name in wrong:
        assert "learning_rate = 10 is what breaks it" in found[name].cure


def test_a_temperature_near_zero_is_named(runs: Path) -> None:
    found = examine(runs / "cold")
    assert troubles(found) == {"identical-completions": "error", "nothing-to-learn": "warning"}
    cold = found["identical-completions"]
    assert cold.seen.endswith(
        "nats a token in the last 5 steps at temperature 0.001; 12 of 12 logged groups are the same text "
        "throughout"
    )
    assert cold.commands == ("temperature = 0.7",)
    assert cold.numbers["entropy"] < 0.001
    assert found["nothing-to-learn"].commands == ("temperature = 0.7",)


def test_two_new_tokens_are_named(runs: Path) -> None:
    found = examine(runs / "two")
    wrong = troubles(found)
    assert wrong == {"truncation": "error", "rewards-zero": "error", "nothing-to-learn": "warning"}
    assert found["rewards-zero"].cure == (
        "no completion reaches its answer: 100 % are cut off. Raise max_new_tokens first; the rest may "
        "not be needed"
    )
    assert found["nothing-to-learn"].cure == "all of them are 0: what cures `rewards-zero` cures this"
    cut = found["truncation"]
    assert cut.seen == "100 % of the completions of the last 5 steps are cut off by max_new_tokens = 2"
    assert cut.commands == ("max_new_tokens = 128", "grpo doctor --only end-tokens --model tiny")


# --- logs by hand --------------------------------------------------------------------------------

HEALTHY = {
    "loss": 0.1,
    "lr": 1e-6,
    "grad_norm": 0.2,
    "kl": None,
    "entropy": 0.4,
    "reward_mean": 1.0,
    "reward_std": 0.5,
    "rewards/correctness": 1.0,
    "zero_std_fraction": 0.3,
    "completion_length_mean": 40.0,
    "truncated_fraction": 0.02,
    "repetition": 0.02,
    "rollout_seconds": 6.0,
    "update_seconds": 3.0,
    "step_seconds": 10.0,
    "rollout_tokens_per_second": 100.0,
    "peak_memory_gb": 4.0,
}


def steps(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Lines of a healthy run; a change is a value, or a function of the step."""
    return [
        {"step": step} | HEALTHY | {k: v(step) if callable(v) else v for k, v in changes.items()}
        for step in range(1, count + 1)
    ]


def evaluation(step: int, accuracy: float, samples: int = 200, seconds: float = 5.0) -> dict[str, Any]:
    return {"step": step, "eval_accuracy": accuracy, "eval_samples": samples, "eval_seconds": seconds}


def written(
    folder: Path,
    lines: list[dict[str, Any]],
    completions: tuple[dict[str, Any], ...] = (),
    **settings: Any,
) -> Path:
    """A run's folder with such a log; its configuration has the settings."""
    (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in completions))
    defaults = {"model_name": "m", "run_name": "r", "reward_functions": ["correctness"]}
    (folder / "config.toml").write_text(dump_config(Config(**(defaults | settings))))
    return folder


def test_a_healthy_log_gets_no_warning(tmp_path: Path) -> None:
    found = examine(written(tmp_path, [evaluation(0, 0.3), *steps(30), evaluation(30, 0.6)]))
    assert list(found) == NAMES
    assert troubles(found) == {}
    assert found["time-split"].seen.splitlines() == [
        "10 s a step: rollouts 60 %, update 30 %, rest 10 %; 100 tokens/s, at most 4.0 GB; evaluations take "
        "3 % of the run",
        "rollouts are the larger part: `max_new_tokens` and `num_generations` shorten them (now 512 and 8)",
    ]


CASES = [
    # name, lines, settings, severity, a part of what was seen, of the cure with its lines
    (
        "rewards-zero",
        steps(12, reward_mean=lambda s: 0.5 * (s < 4), reward_std=lambda s: 0.5 * (s < 4)),
        {},
        "warning",
        "the mean reward is 0 in all steps after step 3",
        "begin again with a lower rate learning_rate = 2e-07",
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
        steps(10, reward_mean=lambda s: 50.0 if s == 7 else 9.0, **{"rewards/correctness": 50.0}),
        {},
        "warning",
        "highest mean reward 50, in step 7; above 10 in 1 of 10 steps",
        "reward_weights = [0.02]",
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
        "lower the rate learning_rate = 2e-07",
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
        "accuracy 40.0 % (33 to 47; step 0), then 45.0 % (38 to 52; step 30): not moved within its interval",
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
        "see whether a reward waits for something",
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
    assert finding.seen == "neither the log nor completions.jsonl says what is repeated"


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


# --- logs that are none --------------------------------------------------------------------------


def test_without_a_log_there_is_one_finding(tmp_path: Path) -> None:
    found = examine(tmp_path)
    assert troubles(found) == {"run-log": "warning"}
    assert list(found) == ["run-log"]
    assert (
        found["run-log"].seen
        == f"{tmp_path} holds no training_log.jsonl, so nothing can be said of its steps"
    )
    (tmp_path / "mine").mkdir()
    written(tmp_path / "mine", steps(1))
    assert examine(tmp_path)["run-log"].commands == (f"grpo doctor --run {tmp_path}/mine",)


def test_a_run_that_was_told_to_write_none_is_told_so(tmp_path: Path) -> None:
    written(tmp_path, [], log_jsonl=False)
    (tmp_path / "training_log.jsonl").unlink()
    found = examine(tmp_path)
    assert list(found) == ["run-log"]
    assert found["run-log"].seen == "the run wrote no log: log_jsonl = false"
    assert found["run-log"].commands == ("log_jsonl = true",)


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        ([], "no step is logged yet: training_log.jsonl is empty"),
        ([evaluation(0, 0.5)], "no step is logged yet: training_log.jsonl holds 1 evaluations"),
    ],
)
def test_a_run_without_steps_is_no_trouble(tmp_path: Path, lines: list[dict[str, Any]], seen: str) -> None:
    found = examine(written(tmp_path, lines))
    assert troubles(found) == {}
    assert found["run-log"].seen == seen
    assert set(found) <= {"run-log", "accuracy-flat"}


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_check_that_is_asked_for_says_why_it_did_not_look(tmp_path: Path, name: str) -> None:
    found = examine(tmp_path, (name,))
    assert [finding.severity for finding in found.values()] == ["skipped"]


def test_a_last_line_that_is_cut_off_is_harmless_and_another_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, steps(6)) / "training_log.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-40])
    found = examine(tmp_path)
    assert troubles(found) == {}
    assert found["run-log"].seen == "5 steps (1 to 5), 0 evaluations; its last line is cut off"
    path.write_text("no JSON\n" + whole + "[1, 2]\n" + whole)
    finding = examine(tmp_path)["run-log"]
    assert finding.severity == "warning"
    assert finding.seen == "2 of 14 lines are no JSON objects, the first of them line 1"
    assert finding.commands == (f"sed -n 1p {path}",)


HOSTILE: list[Any] = [
    None, True, "text", "\x1b[31m\n", [], {}, float("nan"), float("inf"), -1e308, 1e308, 10**400, -5, 0,
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=[repr(value)[:12] for value in HOSTILE])
def test_any_value_in_place_of_a_number_is_survived(tmp_path: Path, value: Any) -> None:
    keys = [*HEALTHY, "skipped", "flags", "repetition", "rewards/\x1b[31mx"]
    lines = [{"step": step} | dict.fromkeys(keys, value) for step in range(1, 12)]
    broken = dict.fromkeys(evaluation(0, 0.0), value)
    texts = dict.fromkeys(("step", "prompt", "completion", "reward", "rewards", "tokens", "answer"), value)
    written(tmp_path, [broken, {"step": value, "loss": 1}, *lines, broken], (texts,) * 6)
    (tmp_path / "config.toml").write_text('learning_rate = "x"\n\x00')
    assert "run-log" in examine(tmp_path)
    negative = [*steps(6), *steps(6, step_seconds=-10.0)]
    assert list(examine(written(tmp_path, negative))) == NAMES
    for place, key in enumerate(HEALTHY):  # one at a time, in a healthy run
        rows = steps(12)
        rows[place % 12][key] = value
        assert list(examine(written(tmp_path, rows))) == NAMES


@pytest.mark.parametrize(
    "content",
    [b"\x00\xff\xfe" * 50, b"[" * 200_000, b"{}\n" * 20, b'null\n1\n"a"\n', b'{"loss": 1, "step": 1e400}\n'],
)
def test_any_bytes_are_survived(tmp_path: Path, content: bytes) -> None:
    for name in ("training_log.jsonl", "completions.jsonl", "config.toml"):
        (tmp_path / name).write_bytes(content)
    found = examine(tmp_path)
    assert list(found) == ["run-log"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_log_that_may_not_be_read_is_told_so(tmp_path: Path) -> None:
    path = written(tmp_path, steps(6)) / "training_log.jsonl"
    path.chmod(0)
    found = examine(tmp_path)
    assert troubles(found) == {"run-log": "error"}
    assert found["run-log"].seen == "training_log.jsonl cannot be read: Permission denied"


def test_a_completion_with_odd_line_separators_is_one_line(tmp_path: Path) -> None:
    odd = {"step": 1, "completion": "a\u2028b\x0bc", "reward": 0.0, "answer": "7"}
    written(tmp_path, steps(6, reward_mean=0.0, reward_std=0.0))
    (tmp_path / "completions.jsonl").write_text(json.dumps(odd, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = examine(tmp_path)["rewards-zero"].commands[-2]
    assert shown == "# step 1, reward 0, right answer 7: a b c"


def test_names_in_commands_are_safe_to_paste(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    lines = steps(6, reward_mean=0.0, reward_std=0.0)
    command = examine(written(folder, lines, model_name="x; touch y"))["rewards-zero"].commands[-1]
    assert shlex.split(command)[:6] == [
        "grpo", "eval", "--model", "x; touch y", "--config", f"{folder}/config.toml",
    ]  # fmt: skip


def test_findings_hold_no_completion_where_a_report_would_show_it(tmp_path: Path) -> None:
    secret = ({"step": 1, "prompt": "PROMPT", "completion": "SECRET", "answer": "ANSWER", "reward": 0.0},)
    found = examine(written(tmp_path, steps(6, reward_mean=0.0, reward_std=0.0), secret))
    told = " ".join(f.seen + f.cure + f.why for f in map(replace, found.values()))
    assert not any(word in told for word in ("PROMPT", "SECRET", "ANSWER"))
