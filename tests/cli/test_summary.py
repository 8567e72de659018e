"""The summary of a run: commands that are safe to paste, and how sure the difference is."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from grpo_cli.cli.progress import RunProgress
from grpo_cli.cli.summary import certainty, commands, print_summary
from grpo_cli.engine.events import (
    RunFinished,
)
from tests.support.recorded_run import FINISHED, RUN

pytestmark = pytest.mark.usefixtures("ordinary_terminal")


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


def test_the_closing_table_says_how_sure_its_difference_is() -> None:
    before = {"step": 0, "eval_accuracy": 0.0, "eval_samples": 8, "eval_right": "00000000"}
    after = {"step": 3, "eval_accuracy": 0.75, "eval_samples": 8, "eval_right": "11111100"}
    assert certainty(before, after) == "accuracy: better, +75.0 points (95 %: +33.3 to +100.0)"  # p = 2/64
    chance = certainty(before, {**after, "eval_right": "11110000"})
    assert chance.startswith("accuracy: no significant difference, ")
    assert certainty({}, after) == ""
    assert certainty({**before, "eval_right": "0"}, after) == ""


def test_the_night_is_told_below_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    night = ("2 interruptions: killed, heat; 11 min 3 s lost", "  02:14 step 2: killed: resumed (63 s)")
    progress = RunProgress()
    progress.take(replace(FINISHED, interruptions=night))
    print_summary(Console(width=100), progress)
    shown = capsys.readouterr().out.splitlines()
    place = shown.index(night[0])
    assert shown[place - 1].startswith("Done: ")
    assert shown[place + 1] == night[1]
