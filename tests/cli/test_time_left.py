"""Time left, and the display after a resume: numbers by hand, a clock by hand."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.cli.dashboard import frame
from grpo_cli.cli.live import started_line, step_line
from grpo_cli.cli.progress import RunProgress
from grpo_cli.cli.summary import heading
from grpo_cli.engine.events import (
    CheckpointSaved,
    EvaluationDone,
    RolloutProgress,
    RunFinished,
    RunStarted,
    StepFinished,
)
from grpo_cli.engine.guards.nothing_learned import NothingLearnt

RUN = Path("outputs/r")


class Watched:
    """A run whose events each come so many seconds after the one before."""

    def __init__(self, total: int, **more: Any) -> None:
        self.now = 100.0
        self.progress = RunProgress(clock=lambda: self.now)
        self.progress.take(
            RunStarted(
                run_dir=RUN,
                total_steps=total,
                model="tiny",
                parameters=1,
                trainable_parameters=1,
                device="cpu",
                train_examples=1,
                skipped_prompts=0,
                **more,
            )
        )

    def step(self, number: int, seconds: float = 0.0) -> None:
        self.now += seconds
        self.progress.take(StepFinished(number, {"step": number, "reward_mean": 0.5}, []))

    def evaluation(self, step: int, seconds: float = 0.0, accuracy: float = 0.5) -> None:
        self.now += seconds
        self.progress.take(EvaluationDone(step, {"step": step, "eval_accuracy": accuracy}))

    def save(self, step: int, seconds: float = 0.0) -> None:
        self.now += seconds
        self.progress.take(CheckpointSaved(step, RUN / f"checkpoint-{step}"))

    def left(self) -> float | None:
        return self.progress.left()


def test_evaluations_and_saves_that_are_still_to_come_are_counted() -> None:
    run = Watched(10, eval_steps=5, save_steps=4)
    run.evaluation(0, 30)
    assert run.left() is None
    run.step(1, 2)
    assert run.left() == 9 * 2 + 2 * 30  # evaluations after 5 and 10; no save was measured yet
    for step in (2, 3, 4):
        run.step(step, 2)
    assert run.left() == 6 * 2 + 2 * 30
    run.save(4, 7)
    assert run.left() == 6 * 2 + 2 * 30 + 2 * 7  # saves after 8, and the final one
    run.step(5, 2)
    run.now += 10
    assert run.left() == 5 * 2 + (30 - 10) + 30 + 2 * 7
    run.evaluation(5, 30)  # 40 s in all: 35 on average
    assert run.left() == 5 * 2 + 35 + 2 * 7


def test_the_end_of_a_run_is_not_its_last_step() -> None:
    run = Watched(3, eval_steps=2, save_steps=3)
    run.evaluation(0, 80)
    run.step(1, 1)
    run.step(2, 1)
    run.evaluation(2, 80)
    run.step(3, 1)
    assert run.left() == 80  # the last step is evaluated, though 3 is no multiple of 2
    run.evaluation(3, 80)
    assert run.left() == 0
    run.save(3, 6)
    assert run.left() == 6  # the final one comes after the checkpoint
    run.now += 2
    assert run.left() == 4


def test_what_is_late_takes_no_time_from_what_comes_after_it() -> None:
    run = Watched(10, eval_steps=10)
    run.evaluation(0, 20)
    run.step(1, 2)
    run.now += 1.5
    assert run.left() == 9 * 2 + 20 - 1.5
    run.now += 1000
    assert run.left() == 8 * 2 + 20


def test_an_evaluation_that_is_late_is_measured_by_itself() -> None:
    run = Watched(10, eval_steps=5)
    run.evaluation(0, 80)
    for step in range(1, 11):
        run.step(step, 2)
        if step == 5:
            run.evaluation(5, 80)
    run.now += 60
    run.progress.take(RolloutProgress("evaluation", 8, 200, 99))
    assert run.left() == 20
    run.now += 40
    run.progress.take(RolloutProgress("evaluation", 160, 200, 999))
    assert run.left() == pytest.approx(25)  # 100 s for 160 of 200
    run.progress.take(RolloutProgress("evaluation", 8, 200, 999))
    assert run.left() == 80  # not more than an evaluation takes: most completions end late


def test_the_latest_twenty_steps_count() -> None:
    run = Watched(100)
    for step in range(1, 31):
        run.step(step, 10 if step <= 10 else 2)
    assert run.left() == 70 * 2


@pytest.mark.parametrize(("eval_steps", "evaluations"), [(0, 0), (1, 9), (3, 4), (4, 3), (50, 1)])
def test_how_many_evaluations_are_to_come(eval_steps: int, evaluations: int) -> None:
    """After step 1 of 10: after each of 2 to 10; 3, 6, 9, 10; 4, 8, 10; 10."""
    run = Watched(10, eval_steps=eval_steps)
    if eval_steps:
        run.evaluation(0, 100)
    run.step(1, 1)
    if eval_steps == 1:
        run.evaluation(1, 100)
    assert run.left() == 9 + 100 * evaluations


def coming(run: Watched) -> list[tuple[str, int, float | None]]:
    return run.progress.coming()


def test_what_comes_next_and_when() -> None:
    run = Watched(12, eval_steps=5, save_steps=4)
    assert coming(run) == [("evaluation", 0, 0), ("save", 4, None)]
    run.evaluation(0, 30)
    assert coming(run) == [("save", 4, None), ("evaluation", 5, None)]
    run.step(1, 2)
    assert coming(run) == [("save", 4, 3 * 2), ("evaluation", 5, 4 * 2)]  # no save was measured yet
    run.now += 1.5
    assert coming(run) == [("save", 4, 3 * 2 - 1.5), ("evaluation", 5, 4 * 2 - 1.5)]
    run.step(2, 0.5)
    run.step(3, 2)
    run.step(4, 2)
    run.now += 3
    assert coming(run) == [("save", 4, 0), ("evaluation", 5, 2)]
    run.save(4, 4)  # 7 s in all
    assert coming(run) == [("evaluation", 5, 2), ("save", 8, 4 * 2 + 30)]
    run.step(5, 2)
    run.now += 10
    assert coming(run) == [("evaluation", 5, 0), ("save", 8, 20 + 3 * 2)]
    run.evaluation(5, 20)
    for step in (6, 7, 8):
        run.step(step, 2)
    run.save(8, 7)
    for step in (9, 10):
        run.step(step, 2)
    run.evaluation(10, 30)
    assert coming(run) == [("evaluation", 12, 4), ("save", 12, 4 + 30)]  # the last ones
    run.step(11, 2)
    run.step(12, 2)
    run.evaluation(12, 30)
    assert coming(run) == [("save", 12, 0)]


def test_a_run_without_evaluations_still_saves_its_model() -> None:
    run = Watched(7)
    run.step(1, 3)
    assert coming(run) == [("save", 7, 18)]


BEFORE = (
    {"step": 0, "eval_accuracy": 0.25, "eval_seconds": 40.0},
    {"step": 10, "eval_accuracy": 0.5, "eval_seconds": 20.0},
)


def resumed() -> Watched:
    return Watched(40, resumed_at=12, evaluations=BEFORE, eval_steps=10, save_steps=20)


def lines(run: Watched) -> list[str]:
    return [line.plain.rstrip() for line in frame(run.progress, 76, 30)]


def test_a_resumed_run_is_shown_from_where_it_is() -> None:
    run = resumed()
    assert any(line.startswith(" step       ━━━━━━━━━╸─") and " 12/40 " in line for line in lines(run))
    assert " accuracy   50.0 %  from 25.0 % at step 0  ▁█" in lines(run)
    assert coming(run) == [("evaluation", 20, None), ("save", 20, None)]
    run.step(13, 3)
    assert coming(run) == [("evaluation", 20, 21), ("save", 20, 21 + 30)]
    assert run.left() == 27 * 3 + 3 * 30  # by the evaluations before the resume; after 20, 30 and 40
    assert step_line(run.progress) == "step 13/40  reward 0.50  left 2m 51s"
    assert "resumed after step 12" in started_line(run.progress.run)  # type: ignore[arg-type]
    (below,) = (line for line in lines(run) if line.startswith("                  step"))
    assert below.split() == ["step", "13", "40", "step", "0", "40"]  # of the reward, of the accuracy


def test_an_evaluation_after_a_resume_is_not_one_before_training() -> None:
    run = Watched(40, resumed_at=12, eval_steps=10)
    run.evaluation(20)
    assert " accuracy   50.0 %  at step 20" in lines(run)


@pytest.mark.parametrize(("total", "end"), [(40, "40"), (100, "100"), (1000, "100 of 1000")])
def test_the_right_end_of_the_curve_is_named(total: int, end: str) -> None:
    run = Watched(total)
    run.step(1, 1)
    assert any(
        line.startswith("                  step 1 ") and line.endswith(f" {end}") for line in lines(run)
    )


def test_the_closing_line_counts_this_part_and_all() -> None:
    finished = RunFinished(run_dir=RUN, final=RUN / "final", steps=40, seconds=270.0, first=None, last=None)
    assert heading(finished, 32)[0].plain == "\nDone: 8 steps in 4m 30s after step 32, 40 in all."
    assert heading(finished, 39)[0].plain == "\nDone: 1 step in 4m 30s after step 39, 40 in all."
    assert heading(finished)[0].plain == "\nDone: 40 steps in 4m 30s."
    nothing = RunFinished(
        run_dir=RUN,
        final=RUN / "final",
        steps=1,
        seconds=2.0,
        first=None,
        last=None,
        nothing_learnt=NothingLearnt("x", []),
    )
    assert heading(nothing)[0].plain == (
        "\nNothing was learned: 1 step in 2s, and in no group did the rewards differ."
    )
