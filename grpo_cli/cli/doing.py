"""A status line on the terminal before a long wait.

    with doing("loading tiny …"):
        from grpo_cli.engine import setup        # seconds

It is erased at the end of the block, so that it does not remain among the results.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.cells import set_cell_size

from grpo_cli.cli.terminal import encodable, is_interactive, stderr_console
from grpo_cli.foreign_text import one_line

ERASED = "\x1b[2K\x1b[1G"  # erase the line and return to its beginning
Show = Callable[[str], None]


@contextmanager
def doing(text: str, *, shown: bool = True) -> Iterator[Show]:
    """Show a status line on a terminal; yields a function that changes it. Elsewhere shows nothing.

    Code that prints within the block calls `erase` first.
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
    """Ignore the status."""
