"""A line on the terminal while a command has nothing else to show: the first word comes before the wait.

    with doing("loading tiny …"):
        from grpo_cli.engine import setup        # seconds

Erased at the end of the block, so that nothing of it stays among the results.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.cells import set_cell_size

from grpo_cli.cli.terminal import encodable, is_interactive, stderr_console
from grpo_cli.foreign_text import one_line

ERASED = "\x1b[2K\x1b[1G"  # the line, and back to its beginning
Show = Callable[[str], None]


@contextmanager
def doing(text: str, *, shown: bool = True) -> Iterator[Show]:
    """Show on a terminal what a command is doing; yields a way to change it. Nothing elsewhere.

    What else is printed in the block calls `erase` first.
    """
    active = shown and is_interactive(stderr_console())

    def show(text: str) -> None:
        console = stderr_console()
        fitting = encodable(set_cell_size(one_line(text), console.width - 1).rstrip(), console.encoding)
        console.file.write(f"{ERASED}\x1b[2m{fitting}\x1b[0m")
        console.file.flush()

    if active:
        show(text)
    try:
        yield show if active else unseen
    finally:
        if active:
            erase()


def erase() -> None:
    """Clear the terminal's current line, where `doing` may have written."""
    console = stderr_console()
    if is_interactive(console):
        console.file.write(ERASED)
        console.file.flush()


def unseen(_text: str) -> None:
    """Show nothing."""
