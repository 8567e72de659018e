"""The two curves by their exact text, and the sizes at which both are shown."""

from typing import Any

import pytest
from rich.cells import cell_len

from grpo_cli.cli.curves import accuracies, best, chart_lines, has_both
from grpo_cli.cli.dashboard import Dashboard, frame
from grpo_cli.cli.progress import RunProgress
from grpo_cli.engine.events import EvaluationDone, RunStarted, StepFinished
from tests.support.consoles import terminal_console
from tests.support.recorded_run import RUN, step


def evaluated(step: int, accuracy: float | None) -> EvaluationDone:
    return EvaluationDone(step, {"step": step, "eval_accuracy": accuracy, "eval_samples": 10})


def after(steps: int, *evaluations: EvaluationDone, total: int = 8, **more: Any) -> RunProgress:
    """A run after so many steps, whose reward rises by 0.1 a step; 10 s a step."""
    now = [0.0]
    progress = RunProgress(clock=lambda: now[0])
    progress.take(
        RunStarted(
            run_dir=RUN, total_steps=total, model="tiny", parameters=1, trainable_parameters=1, device="cpu",
            train_examples=1, skipped_prompts=0, eval_steps=4, save_steps=6, **more,
        )
    )  # fmt: skip
    by_step = {event.step: event for event in evaluations}
    for number in range(steps + 1):
        if number:
            now[0] += 10
            progress.take(step(number, number / 10, zero_std_fraction=0.25))
        if number in by_step:
            progress.take(by_step[number])
    return progress


def test_both_curves_end_at_the_same_step_and_the_best_is_marked() -> None:
    progress = after(8, evaluated(0, 0.2), evaluated(4, 1.0), evaluated(8, 0.6))
    assert [line.plain.rstrip() for line in chart_lines(progress, 80, 4, True)] == [
        " reward     0.80 +                *****   accuracy  1.00 +         *o**",
        " 0.80            |          ******        60.0 %         |     ****    *****",
        "                 |    ******                             |  ***             ***",
        "            0.10 +****                              0.20 +**",
        "                  step 1              8                   step 0              8",
    ]
    (top, *_) = (line.plain for line in chart_lines(progress, 80, 4, False))
    assert top.rstrip() == " reward     0.80 ┤               ⢀⣀⠤⠔⠒⠉   accuracy  1.00 ┤        ⡠⠒●⠒⠤⢄⣀"


def test_one_curve_in_a_narrow_window_or_before_the_second_evaluation() -> None:
    progress = after(4, evaluated(0, 0.2), evaluated(4, 0.4))
    assert [has_both(progress, width) for width in (60, 71, 72, 110)] == [False, False, True, True]
    assert not has_both(after(4, evaluated(0, 0.2)), 110)
    assert not has_both(after(4, evaluated(0, 0.2), evaluated(4, None)), 110)


def test_accuracies_stand_in_the_order_of_their_steps() -> None:
    progress = RunProgress(evaluations=[{"step": 8, "eval_accuracy": 0.5}, {"step": 0, "eval_accuracy": 0.1}])
    progress.evaluations += [{"step": 8, "eval_accuracy": 0.7}, {"step": 9}, {"eval_accuracy": float("nan")}]
    assert accuracies(progress) == [(0, 0.1), (8, 0.7)]


def test_the_best_is_the_first_of_equal_ones() -> None:
    assert best([(0, 0.3), (4, 0.9), (8, 0.9)]) == (4, 0.9)


def facts(progress: RunProgress, width: int) -> list[str]:
    lines = [line.plain.rstrip() for line in frame(progress, width, 40)]
    return [line for line in lines if line.startswith((" accuracy", " next", " teaching"))]


def test_the_facts_name_the_best_the_next_and_the_groups_that_teach() -> None:
    progress = after(5, evaluated(0, 0.2), evaluated(4, 0.6))
    assert facts(progress, 80) == [
        " accuracy   60.0 % (6/10)  from 20.0 % at step 0",
        " next       checkpoint at step 6 in 10s · evaluation at step 8 in 30s",
        " teaching   75 % of groups ▄▄▄▄▄",
    ]
    progress = after(8, evaluated(0, 0.2), evaluated(4, 0.9), evaluated(8, 0.6))
    assert (
        facts(progress, 60)[0]
        == " accuracy   60.0 % (6/10)  from 20.0 % at step 0  ▁█▅  best 90.0 % at step 4"
    )
    assert facts(progress, 80)[0] == " accuracy   60.0 % (6/10)  from 20.0 % at step 0  best 90.0 % at step 4"
    assert facts(progress, 80)[1] == " next       final model at step 8 now"


def test_a_run_that_logs_no_groups_says_nothing_of_them() -> None:
    progress = after(1)
    progress.take(StepFinished(2, {"step": 2, "reward_mean": 0.5}, []))
    assert [line for line in facts(progress, 80) if "teaching" in line] == []


@pytest.mark.parametrize(("width", "height"), [(80, 24), (110, 40), (72, 24), (120, 30), (120, 40)])
def test_everything_stands_in_usual_windows(width: int, height: int) -> None:
    progress = after(5, evaluated(0, 0.2), evaluated(4, 0.6))
    lines = [line.plain for line in frame(progress, width, height)]
    labels = [line[:12].strip() for line in lines if line[:12].strip()]
    assert labels == [
        "model", "run", "step", "reward", "0.50", "accuracy", "next", "teaching", "length", "speed", "update",
        "latest",
    ]  # fmt: skip
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width


def test_a_window_that_is_resized_shows_whole_lines_at_each_size() -> None:
    progress = after(5, evaluated(0, 0.2), evaluated(4, 0.6))
    console, stream = terminal_console()
    for width, height, has_accuracy in ((120, 40, True), (80, 24, True), (60, 20, False), (100, 30, True)):
        console.width, console.height = width, height
        stream.seek(0)
        stream.truncate()
        console.print(Dashboard(progress))
        lines = stream.getvalue().splitlines()
        assert max(map(cell_len, lines)) <= width
        assert len(lines) <= height - 1
        (top,) = (line for line in lines if line.startswith(" reward "))
        assert ("accuracy" in top) is has_accuracy
        assert any(line.startswith(" next       checkpoint at step 6 in 10s") for line in lines)
        assert any(line.startswith(" teaching   75 % of groups") for line in lines)
