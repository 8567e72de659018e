"""Consoles on a pipe and on a terminal of known size."""

import io

from rich.console import Console


class FakeTerminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


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
