"""The display of a training run: plain lines and the dashboard by their exact text, hostile completions."""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from grpo_cli.cli.dashboard import Dashboard, frame, middle_out
from grpo_cli.cli.live import training_display
from grpo_cli.cli.progress import RunProgress
from grpo_cli.cli.summary import certainty, commands
from grpo_cli.cli.terminal import is_interactive, say
from grpo_cli.engine.events import (
    CheckpointSaved,
    EvaluationDone,
    Event,
    Notice,
    RolloutProgress,
    RunFinished,
    StepFinished,
    UpdateProgress,
)
from grpo_cli.foreign_text import guarded_output, one_line
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason
from tests.support.recorded_run import AFTER, BEFORE, FINISHED, RUN, STARTED

HOSTILE = "[bold]x[/bold]\x1b[2J\x1b]0;title\x07\rfake\u202e\u2066\x9b31m\tend\n<answer>[/]</answer>"

RESULT = """
Done: 3 steps in 1m 24s.

          before (step 0)    after (step 3)    difference
accuracy  42.0 % (84/200)  91.5 % (183/200)  +49.5 points
format             84.0 %           100.0 %  +16.0 points
length        30.5 tokens       43.0 tokens  +12.5 tokens

The model is in outputs/smoke-test/final. To use it:
  grpo eval --model outputs/smoke-test/final
  grpo generate --model outputs/smoke-test/final --prompt "What is 1 + 2?"
  mlx_lm.generate --model outputs/smoke-test/final --prompt "What is 1 + 2?"
"""


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own surroundings decide nothing."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


class FakeTerminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def step(number: int, reward: float, completion: str = "<answer>3</answer>", **more: Any) -> StepFinished:
    """A finished step with one completion."""
    metrics: dict[str, Any] = {
        "step": number,
        "lr": 3e-5,
        "loss": 0.0125,
        "kl": None,
        "reward_mean": reward,
        "completion_length_mean": 31.24,
        "truncated_fraction": 0.03,
        "rollout_seconds": 0.41,
        "update_seconds": 0.5,
        "step_seconds": 0.91,
        "rollout_tokens_per_second": 1204.4,
        "peak_memory_gb": 0.61,
    }
    example = Example(messages=[{"role": "user", "content": "What is 1 + 2?"}], answer="3")
    rollout = Rollout(
        token_ids=[5],
        logprobs=[-0.1],
        entropies=[0.3],
        stop_reason=StopReason.EOS,
        text=completion,
        rewards={"correctness": 1.0, "int": 0.5},
        reward=1.5,
    )
    return StepFinished(number, metrics | more, [RolloutGroup(example, [1, 2], [rollout])])


def whole_run() -> list[Event]:
    """A run of three steps with two evaluations."""
    return [
        Notice("a slow matrix product"),
        STARTED,
        RolloutProgress("evaluation", 100, 200, 3000),
        EvaluationDone(0, BEFORE | {"eval_seconds": 3.14}),
        *(step(number, 0.2 * number) for number in (1, 2, 3)),
        EvaluationDone(3, AFTER | {"eval_seconds": 3.0}),
        CheckpointSaved(3, RUN / "checkpoint-3"),
        FINISHED,
    ]


def played(console: Console, events: list[Event], **options: Any) -> None:
    """Show the events on the console."""
    with training_display(console=console, **options) as listener:
        for event in events:
            listener(event)


def plain_console() -> tuple[Console, io.StringIO]:
    """A console on a pipe, 60 columns by its own reckoning."""
    stream = io.StringIO()
    return Console(file=stream, width=60, force_terminal=False, highlight=False), stream


def terminal_console(color: bool = False) -> tuple[Console, FakeTerminal]:
    """A console on a terminal of 80 × 30."""
    stream = FakeTerminal()
    return (
        Console(
            file=stream,
            width=80,
            height=30,
            force_terminal=True,
            force_interactive=True,
            color_system="standard" if color else None,
            legacy_windows=False,
            highlight=False,
        ),
        stream,
    )


def after(events: list[Event], clock: Callable[[], float]) -> RunProgress:
    """The state after the events."""
    progress = RunProgress(clock=clock)
    for event in events:
        progress.take(event)
    return progress


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunProgress, "left", lambda _: 80.0)
    console, stream = plain_console()
    played(console, whole_run())
    rest = (
        "length 31.2  loss 0.0125  lr 3e-05  rollout 0.4 s  update 0.5 s  1204 tok/s  mem 0.6 GB  left 1m 20s"
    )
    assert (
        stream.getvalue()
        == (
            "note: a slow matrix product\n"
            "model tiny  parameters 848 k  device cpu  examples 10000  too long 2  steps 3"
            "  run outputs/smoke-test\n"
            "evaluation at step 0  accuracy 42.0 % (84/200)  format 84.0 %  length 30.5  in 3.1 s\n"
            f"step 1/3  reward 0.20  {rest}\n"
            f"step 2/3  reward 0.40  {rest}\n"
            f"step 3/3  reward 0.60  {rest}\n"
            "evaluation at step 3  accuracy 91.5 % (183/200)  format 100.0 %  length 43.0  in 3.0 s\n"
            "saved step 3  outputs/smoke-test/checkpoint-3\n"
        )
        + RESULT
    )


def test_plain_lines_follow_logging_steps_and_end_with_the_last() -> None:
    console, stream = plain_console()
    events = whole_run()
    events[1] = replace(STARTED, logging_steps=2)
    played(console, events)
    steps = [line.split()[1] for line in stream.getvalue().splitlines() if line.startswith("step ")]
    assert steps == ["2/3", "3/3"]


def test_kl_is_shown_when_there_is_a_reference() -> None:
    console, stream = plain_console()
    played(console, [STARTED, step(1, 0.5, kl=0.01234)])
    assert "kl 0.0123  lr" in stream.getvalue()


def test_quiet_shows_notices_and_the_result() -> None:
    console, stream = plain_console()
    played(console, whole_run(), quiet=True)
    assert stream.getvalue() == "note: a slow matrix product\n" + RESULT


def test_result_without_evaluations() -> None:
    console, stream = plain_console()
    played(
        console,
        [
            STARTED,
            RunFinished(
                run_dir=RUN, final=Path("my runs/final"), steps=3, seconds=5.0, first=None, last=None
            ),
        ],
        quiet=True,
    )
    assert stream.getvalue() == (
        "\nDone: 3 steps in 5s.\n\nThe model is in my runs/final. To use it:\n"
        "  grpo eval --model 'my runs/final'\n"
        "  grpo generate --model 'my runs/final' --prompt \"…\"\n"
        "  mlx_lm.generate --model 'my runs/final' --prompt \"…\"\n"
    )


def test_adapters_are_used_with_their_base() -> None:
    finished = RunFinished(
        run_dir=RUN,
        final=Path("runs/final"),
        steps=3,
        seconds=5.0,
        first=None,
        last=None,
        adapters_on="Qwen/Qwen2.5-0.5B",
    )
    last = commands(finished, "Hi")[-1]
    assert last == 'mlx_lm.generate --model Qwen/Qwen2.5-0.5B --adapter-path runs/final --prompt "Hi"'


def test_a_model_of_ours_brings_its_code_to_plain_mlx_lm() -> None:
    finished = RunFinished(
        run_dir=RUN, final=Path("runs/final"), steps=3, seconds=5.0, first=None, last=None, own_code=True
    )
    assert commands(finished, "Hi")[-1] == (
        'mlx_lm.generate --model runs/final --trust-remote-code --prompt "Hi"'
    )


def test_commands_are_safe_to_paste() -> None:
    assert commands(FINISHED, "What is $(rm -r x)?")[1].endswith("--prompt 'What is $(rm -r x)?'")
    assert commands(FINISHED, "long " * 50)[1].endswith('--prompt "…"')
    assert commands(FINISHED, "two\nlines")[1].endswith('--prompt "…"')


def test_an_interrupted_run_prints_no_result() -> None:
    console, stream = terminal_console()
    with pytest.raises(KeyboardInterrupt), training_display(console=console) as listener:
        listener(STARTED)
        raise KeyboardInterrupt
    assert "Done" not in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is visible again


def test_live_display_keeps_notices_and_checkpoints_above_the_picture() -> None:
    console, stream = terminal_console()
    played(console, whole_run())
    shown = stream.getvalue()
    assert shown.startswith("note: a slow matrix product\n")
    assert "saved step 3  outputs/smoke-test/checkpoint-3\n" in shown
    assert " step       ━━━━" in shown
    assert shown.endswith(RESULT)


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
    assert labels == ["", "model", "run", "step", "", "", "reward", "0.30", "", "", "", "", "length"]


def test_hostile_completions_do_nothing_to_the_terminal() -> None:
    progress = after([STARTED, step(1, 0.2, HOSTILE)], Clock())
    console, stream = terminal_console()
    for line in frame(progress, 100, 40):
        console.print(line)
    assert "[bold]x[/bold]␛[2J␛]0;title␇␍fake\\u202e\\u2066\\u009b31m" in stream.getvalue()
    assert not set(stream.getvalue()) & set("\x1b\x07\r\u202e\u2066\x9b")


def test_printable() -> None:
    assert one_line(" a\r\nb\u00a0c\u200bd\ud800e\x7f ") == "a⏎b\u00a0c\\u200bd\\ud800e␡"
    assert one_line("naïve 数学 🙂") == "naïve 数学 🙂"


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


def test_say_reads_no_markup_and_breaks_no_lines() -> None:
    console, stream = plain_console()
    say(console, "[red]" + "x" * 100)
    assert stream.getvalue() == "[red]" + "x" * 100 + "\n"


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console, stream = terminal_console(color=True)
    say(console, "plain")
    played(console, [Notice("n")])
    assert "\x1b[33m" not in stream.getvalue()
    monkeypatch.delenv("NO_COLOR")
    console, stream = terminal_console(color=True)
    played(console, [Notice("n")])
    assert "\x1b[33mnote: " in stream.getvalue()


def test_a_pipe_is_not_interactive_even_if_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not is_interactive(Console(file=io.StringIO()))
    assert is_interactive(terminal_console()[0])


def test_the_closing_table_says_how_sure_its_difference_is() -> None:
    before = {"step": 0, "eval_accuracy": 0.0, "eval_samples": 8, "eval_right": "00000000"}
    after = {"step": 3, "eval_accuracy": 0.75, "eval_samples": 8, "eval_right": "11111100"}
    assert certainty(before, after) == "accuracy: better, +75.0 points (95 %: +33.3 to +100.0)"  # p = 2/64
    chance = certainty(before, {**after, "eval_right": "11110000"})
    assert chance.startswith("accuracy: no significant difference, ")
    assert certainty({}, after) == ""
    assert certainty({**before, "eval_right": "0"}, after) == ""


def test_what_a_reward_prints_beside_the_dashboard_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    console, stream = terminal_console()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    with guarded_output(), training_display(console=console) as listener:
        listener(STARTED)
        print("\x1b[8mhidden\x1b]8;;https://x.example\x07link\x1b]0;t\x07")
        print("\x9b2J\x1b[2J", file=sys.stderr)
    shown = stream.getvalue()
    assert "␛[8mhidden␛]8;;https://x.example␇link␛]0;t␇" in shown
    assert "\\u009b2J␛[2J" in shown
    assert not [sequence for sequence in ("\x1b[8m", "\x1b]", "\x9b", "\x1b[2J") if sequence in shown]
