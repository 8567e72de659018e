"""The sentence on top of a page, for several kinds of runs."""

from pathlib import Path

import pytest

from grpo_cli.report.read import read_run
from grpo_cli.report.sentence import result_of, seconds_in_words
from tests.support.report_runs import judged, run_of
from tests.support.run_logs import evaluation, steps, written


def test_a_run_that_learned(tmp_path: Path) -> None:
    log = [judged(0, "1" * 78 + "0" * 122), *steps(40, zero_std_fraction=0.12), judged(40, "1" * 200)]
    assert result_of(run_of(tmp_path, log)) == (
        "Accuracy rose from 39.0 to 100.0 % (95 % interval 98–100, 200 problems, better than before "
        "training) in 40 steps, 6 min 40 s; 88 % of the groups taught.",
        "good",
    )


def test_a_run_that_learned_nothing(tmp_path: Path) -> None:
    log = [
        evaluation(0, 0.0),
        *steps(20, zero_std_fraction=lambda s: 0.2 if s < 5 else 1.0),
        evaluation(20, 0.0),
    ]
    assert result_of(run_of(tmp_path, log)) == (
        "Accuracy stayed at 0.0 % (95 % interval 0–2, 200 problems) in 20 steps, 3 min 20 s; 16 % of the "
        "groups taught.",
        "plain",
    )
    log = [
        evaluation(0, 0.0),
        *steps(20, zero_std_fraction=lambda s: 0.2 if s < 2 else 1.0),
        evaluation(20, 0.0),
    ]
    assert result_of(run_of(tmp_path / "b", log)) == (
        "Nothing was learned: in 96 % of the groups all rewards were equal (20 steps, 3 min 20 s).",
        "bad",
    )
    assert result_of(run_of(tmp_path / "c", steps(2, zero_std_fraction=1.0))).text == (
        "Nothing was learned: in all of the groups all rewards were equal (2 steps, 20 s)."
    )


def test_a_difference_by_chance_is_no_result(tmp_path: Path) -> None:
    log = [judged(0, "0110" * 5), *steps(1), judged(1, "0111" + "0110" * 4)]
    assert result_of(run_of(tmp_path, log)) == (
        "Accuracy rose from 50.0 to 55.0 % (95 % interval 34–74, 20 problems, no significant difference) "
        "in 1 step, 10 s; 70 % of the groups taught.",
        "plain",
    )


def test_a_run_that_got_worse(tmp_path: Path) -> None:
    log = [judged(0, "1" * 20), *steps(3), judged(3, "0" * 20)]
    sentence = result_of(run_of(tmp_path, log))
    assert sentence.tone == "bad"
    assert sentence.text.startswith(
        "Accuracy fell from 100.0 to 0.0 % (95 % interval 0–16, 20 problems, worse than"
    )


def test_without_evaluations_the_reward_tells(tmp_path: Path) -> None:
    log = steps(9, reward_mean=lambda step: float(step))
    # first third: 1, 2, 3; the last third has at least five steps: 5 to 9
    assert result_of(run_of(tmp_path, log)) == (
        "The mean reward rose from 2 to 7 (first and last steps; no evaluation) in 9 steps, 1 min 30 s; "
        "70 % of the groups taught.",
        "good",
    )


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    assert result_of(read_run(written(tmp_path, steps(2)))).text == (
        "The mean reward was 1 in 2 steps, 20 s; 70 % of the groups taught. The run is not finished."
    )
    (tmp_path / "training_log.jsonl").write_text("")
    assert result_of(read_run(tmp_path)) == ("No step is logged yet.", "plain")


def test_values_that_are_not_what_they_should_be_are_left_out(tmp_path: Path) -> None:
    broken = {"step": 3, "loss": None, "zero_std_fraction": 7, "reward_mean": "x", "step_seconds": None}
    log = [
        {"step": True, "loss": 1},
        {"step": -1, "loss": 1},
        {"loss": 1},
        broken,
        {"step": 4, "eval_accuracy": 7},
    ]
    assert result_of(run_of(tmp_path, log)).text == "No reward is logged in 3 steps, 0 s."


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7500, "2 h 05 min"), (-3, "0 s")],
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert seconds_in_words(seconds) == words
