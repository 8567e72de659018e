"""The picture in a window of changing size, and lines that stay whole: rows and lines counted by hand."""

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from grpo_cli.cli.picture import BEGIN, END, Picture
from grpo_cli.cli.progress import RunProgress
from grpo_cli.cli.summary import print_summary
from grpo_cli.cli.terminal import broken_at_words, broken_command
from grpo_cli.engine.events import RunFinished


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def console(width: int, height: int = 24) -> Console:
    return Console(
        file=Terminal(),
        width=width,
        height=height,
        force_terminal=True,
        force_interactive=True,
        color_system=None,
        legacy_windows=False,
        _environ={"TERM": "xterm"},
    )


def drawn(picture: Picture) -> str:
    """What one refresh writes."""
    stream = picture.console.file
    assert isinstance(stream, Terminal)
    stream.seek(0)
    stream.truncate()
    picture.refresh()
    return stream.getvalue()


@pytest.fixture
def picture(monkeypatch: pytest.MonkeyPatch) -> Picture:
    """Four lines, of 1, 40, 41 and 80 cells, on a terminal of 80 × 24, drawn once."""
    monkeypatch.setenv("TERM", "xterm")
    lines = Text("\n".join(("a", "b" * 40, "c" * 41, "数" * 40)))
    picture = Picture(lines, console(80), auto_refresh=False)
    picture.start()
    drawn(picture)
    return picture


def rows_erased(text: str) -> int:
    """How many rows the frame erases before it draws."""
    assert text.startswith(f"{BEGIN}\r\x1b[2K")
    assert text.endswith(END)
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
    return text.count("\x1b[2K")


def test_a_window_made_narrower_has_wrapped_the_lines(picture: Picture) -> None:
    assert rows_erased(drawn(picture)) == 4
    picture.console.width = 40
    assert rows_erased(drawn(picture)) == 1 + 1 + 2 + 2
    assert rows_erased(drawn(picture)) == 1 + 1 + 2 + 2  # rich wraps what no_wrap does not forbid
    picture.console.width = 80
    assert rows_erased(drawn(picture)) == 6


def test_rows_that_a_lower_window_pushed_out_come_back_with_a_higher_one(picture: Picture) -> None:
    picture.console.height = 3
    drawn(picture)  # one of four is above the top; three are drawn now
    picture.console.height = 10
    assert rows_erased(drawn(picture)) == 3 + 1
    assert rows_erased(drawn(picture)) == 4


def test_what_was_printed_since_is_not_erased(picture: Picture) -> None:
    picture.console.height = 3
    drawn(picture)
    picture.console.print("a notice")
    picture.console.height = 10
    assert rows_erased(drawn(picture)) == 3


COMMAND = "grpo generate --model 'my runs/final' --prompt \"What is 1 + 2?\" --set x='it'\"'\"'s'"


def joined(lines: list[str]) -> str:
    """The lines as a shell reads them."""
    return "\n".join(lines).replace("\\\n", "")


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_a_long_command_is_broken_as_a_shell_continues_it(width: int) -> None:
    lines = broken_command(COMMAND, width)
    assert max(map(len, lines)) <= width
    assert shlex.split(joined(lines)) == shlex.split(COMMAND)
    assert (len(lines) == 1) == (len(COMMAND) <= width)
    for line in lines:
        assert shlex.split(line.removesuffix("\\"))  # no quote is left open


def test_an_option_stands_with_its_value_where_both_fit() -> None:
    assert broken_command('grpo generate --model outputs/r/final --prompt "What is 1 + 2?"', 50) == [
        "grpo generate --model outputs/r/final \\",
        '  --prompt "What is 1 + 2?"',
    ]


def test_a_command_in_a_sentence_stays_whole_or_breaks_between_arguments() -> None:
    command = f"uv run {COMMAND}"
    said = broken_at_words(Text(f"Stopped after step 4.\nResume with: `{command}`; then more"), 50).plain
    first, *lines = said.split("\n")
    assert first == "Stopped after step 4."
    assert max(map(len, lines)) <= 50
    shown = joined(lines)
    assert shlex.split(shown[shown.index("`") + 1 : shown.rindex("`")]) == shlex.split(command)
    whole = broken_at_words(Text("Resume with: `grpo resume 'my runs/a b c d e f g'`"), 40).plain
    assert whole.split("\n") == ["Resume with:", "`grpo resume 'my runs/a b c d e f g'`"]


BEFORE = {"step": 0, "eval_accuracy": 0.4, "eval_samples": 1000, "eval_format": 1.0, "eval_right": "01000"}
AFTER = BEFORE | {"step": 4000, "eval_accuracy": 1.0, "eval_right": "11111"}


@pytest.mark.parametrize("width", [60, 80])
def test_the_result_is_whole_in_a_narrow_window(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    progress = RunProgress()
    final = Path("outputs/a run of mine, a rather long one/final")
    progress.finished = RunFinished(
        run_dir=final.parent, final=final, steps=4000, seconds=9.0, first=BEFORE, last=AFTER
    )
    terminal = console(width)
    print_summary(terminal, progress)
    shown = terminal.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, shown)) <= width
    rows = [line.split()[0] for line in shown if line.startswith(("accuracy ", "format "))]
    assert rows == ["accuracy", "format"]
    assert [line.endswith("difference") for line in shown if "before (step 0)" in line] == [width >= 80]
    assert "accuracy: no significant difference, +60.0 points" in " ".join(shown)
    used = "\n".join(shown).partition("use it:\n")[2].split("\n")
    assert [shlex.split(line)[:4] for line in joined(used).split("\n")] == [
        ["grpo", "eval", "--model", str(final)],
        ["grpo", "generate", "--model", str(final)],
        ["mlx_lm.generate", "--model", str(final), "--prompt"],
    ]
