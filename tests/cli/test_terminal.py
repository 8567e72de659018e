"""The terminal: text without markup, and pipes that are not interactive."""

import io

import pytest
from rich.console import Console

from grpo_cli.cli.terminal import is_interactive, say
from tests.support.consoles import plain_console, terminal_console

pytestmark = pytest.mark.usefixtures("ordinary_terminal")


def test_say_reads_no_markup_and_breaks_no_lines() -> None:
    console, stream = plain_console()
    say(console, "[red]" + "x" * 100)
    assert stream.getvalue() == "[red]" + "x" * 100 + "\n"


def test_a_pipe_is_not_interactive_even_if_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not is_interactive(Console(file=io.StringIO()))
    assert is_interactive(terminal_console()[0])
