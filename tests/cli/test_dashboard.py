"""The dashboard by its exact text, in terminals of any size, with hostile completions."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from grpo_cli.cli.dashboard import Dashboard, frame, middle_out
from grpo_cli.cli.progress import RunProgress
from grpo_cli.cli.terminal import say
from grpo_cli.engine.events import (
    EvaluationDone,
    Event,
    RolloutProgress,
    UpdateProgress,
)
from tests.support.consoles import terminal_console
from tests.support.recorded_run import BEFORE, STARTED, step

pytestmark = pytest.mark.usefixtures("ordinary_terminal")

HOSTILE = "[bold]x[/bold]\x1b[2J\x1b]0;title\x07\rfake\u202e\u2066\x9b31m\tend\n<answer>[/]</answer>"


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def after(events: list[Event], clock: Callable[[], float]) -> RunProgress:
    """The state after the events."""
    progress = RunProgress(clock=clock)
    for event in events:
        progress.take(event)
    return progress


def test_dashboard_between_steps() -> None:
    clock = Clock()
    progress = after([STARTED, EvaluationDone(0, BEFORE)], clock)
    clock.now = 110.0
    progress.take(step(1, 0.2))
    clock.now = 114.0
    progress.take(step(2, 0.8))
    progress.take(RolloutProgress("rollout", 4, 8, 1234))
    # 14 s for two steps: 7 s for the third.
    assert [line.plain.rstrip() for line in frame(progress, 76, 30)] == [
        "",
        " model      tiny  848 k parameters · cpu · 0.61 GB peak",
        " run        outputs/smoke-test  10,000 examples, 2 too long",
        " step       ━━━━━━━━━━━━━━━━━━━━━───────────  2/3      14s, 7s left",
        " rollout    ━━━━━━━━━━━━━━━━────────────────  4/8      1,234 tokens",
        "",
        " reward     0.80 ┤                         ⣀⠤⠒⠁",
        " 0.80            │                     ⢀⡠⠔⠉",
        "                 │                  ⣀⠔⠊⠁",
        "                 │              ⣀⠤⠒⠉",
        "                 │          ⢀⡠⠔⠊",
        "                 │       ⣀⠤⠊⠁",
        "                 │   ⢀⡠⠒⠉",
        "            0.20 ┤⡠⠔⠊⠁",
        "                  step 1                                                  3",
        "",
        " accuracy   42.0 % (84/200)  before training",
        " next       final model at step 3 in 7s",
        " length     31.2 tokens    ▄▄  cut off 3.0 %",
        " speed      1,204 tok/s    rollout 0.4 s + update 0.5 s = step 0.9 s",
        " update     lr 3e-05",
        "",
        " latest     What is 1 + 2?  answer 3",
        "            reward 1.50  correctness 1.00  int 0.50  ended by eos",
        "            <answer>3</answer>",
        "",
        "",
    ]


def test_dashboard_keeps_what_was_done_against_pressure() -> None:
    pressed = step(1, 0.2)
    pressed.metrics["machine_actions"] = ["cache cleared", "4 completions at once"]
    progress = after([STARTED, pressed, step(2, 0.8)], Clock())
    shown = [line.plain.rstrip() for line in frame(progress, 76, 30)]
    assert " machine    step 1: cache cleared, 4 completions at once" in shown


def test_dashboard_names_the_stage_under_way() -> None:
    progress = after([STARTED, UpdateProgress(3, 4)], Clock())
    assert frame(progress, 60, 30)[4].plain == " update     ━━━━━━━━━━━━────  3/4"
    progress.take(RolloutProgress("evaluation", 0, 200, 0))
    assert frame(progress, 60, 30)[4].plain == " evaluation ────────────────  0/200    0 tokens"


@pytest.mark.parametrize("height", [4, 8, 12, 16, 20, 24, 50])
@pytest.mark.parametrize("width", [20, 60, 200])
def test_dashboard_fits_the_terminal(width: int, height: int) -> None:
    progress = after([STARTED, EvaluationDone(0, BEFORE), step(1, 0.2, "word " * 900), step(2, 0.3)], Clock())
    lines = frame(progress, width, height)
    assert len(lines) <= height - 1
    assert all(line.no_wrap and line.overflow == "ellipsis" for line in lines)


def test_low_terminals_keep_the_curve() -> None:
    progress = after([STARTED, step(1, 0.2), step(2, 0.3)], Clock())
    labels = [line.plain[:12].strip() for line in frame(progress, 80, 14)]
    assert labels == ["", "model", "run", "step", "", "", "reward", "0.30", "", "", "", "", "next"]


def test_hostile_completions_do_nothing_to_the_terminal() -> None:
    progress = after([STARTED, step(1, 0.2, HOSTILE)], Clock())
    console, stream = terminal_console()
    for line in frame(progress, 100, 40):
        console.print(line)
    assert "[bold]x[/bold]␛[2J␛]0;title␇␍fake\\u202e\\u2066\\u009b31m" in stream.getvalue()
    assert not set(stream.getvalue()) & set("\x1b\x07\r\u202e\u2066\x9b")


def test_long_completions_lose_their_middle() -> None:
    assert middle_out(["one", "two tw", "three", "four", "five"], 4) == ["one", "two  …", "four", "five"]
    assert middle_out(["one"], 3) == ["one", "", ""]


def test_ascii_streams_get_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    console = Console(file=stream, width=60, height=30, color_system=None)
    say(console, "Grüße → …")
    console.print(Dashboard(after([STARTED, step(1, 0.2), step(2, 0.3, "数\x1b学")], Clock())))
    stream.flush()
    shown = raw.getvalue().decode("ascii").splitlines()
    assert shown[0] == "Gr??e > ~"
    assert shown[2] == " model      tiny  848 k parameters | cpu | 0.61 GB peak"
    assert shown[4].rstrip() == " step       ##########......  2/3      0s, 0s left"
    assert shown[7].rstrip() == " reward     0.30 +                   **"
    assert "            ???" in [line.rstrip() for line in shown]
