"""The display of a training run: plain lines by their exact text, and lines above the picture."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from grpo_cli.cli.live import training_display
from grpo_cli.cli.progress import RunProgress
from grpo_cli.cli.terminal import say
from grpo_cli.engine.events import (
    Event,
    Notice,
    RunFinished,
)
from grpo_cli.foreign_text import guarded_output
from tests.support.consoles import plain_console, terminal_console
from tests.support.recorded_run import RUN, STARTED, step, whole_run
from tests.support.report_runs import run_of
from tests.support.run_logs import steps

pytestmark = pytest.mark.usefixtures("ordinary_terminal")

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


def played(console: Console, events: list[Event], **options: Any) -> None:
    """Show the events on the console."""
    with training_display(console=console, **options) as listener:
        for event in events:
            listener(event)


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


def test_the_last_line_names_the_page(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", steps(3)).folder
    console, stream = plain_console()
    played(console, [replace(one, run_dir=folder) if hasattr(one, "run_dir") else one for one in whole_run()])
    assert "".join(stream.getvalue().split()).endswith(f"Therunasapage:{folder}/report.html")
    assert (folder / "report.html").is_file()


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
