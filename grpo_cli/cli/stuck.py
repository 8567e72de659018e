"""Notices about a user's code that does not return, with the line it is at.

    with watched([Path("my_env.py")]):
        environment.respond(turn)         # after 5 s: "! my_env.py, line 12, in respond: still running …"

A Ctrl-C in the block ends it with a note that names the line.
"""

import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.text import Text

from grpo_cli.cli.doing import erase
from grpo_cli.cli.terminal import say, stderr_console

PATIENCE = 5.0  # seconds in one function before the first notice, and between two
LOOK = 0.5  # seconds between two looks


@contextmanager
def watched(files: Iterable[Path]) -> Iterator[None]:
    """Within the block, tell of code in these files that runs for long."""
    files, over = list(files), threading.Event()
    thread = threading.Thread(target=watch, args=(files, over), daemon=True)
    if files:
        thread.start()
    try:
        yield
    except KeyboardInterrupt as error:
        if line := line_of(error, files):
            error.add_note(f"Your code was at {line}.")
        raise
    finally:
        over.set()


def watch(files: list[Path], over: threading.Event) -> None:
    """Look at the running line until `over` is set."""
    seconds = 0.0
    while not over.wait(LOOK):
        line = running_line(files)
        seconds = seconds + LOOK if line else 0.0
        if line and seconds >= PATIENCE and seconds % PATIENCE == 0:
            erase()
            text = f"! {line}: your code has run for {seconds:.0f} s; Ctrl-C ends it"
            say(stderr_console(), Text(text, style="yellow"))


def running_line(files: Iterable[Path]) -> str:
    """The innermost line of one of the files that some thread is in; empty if none is."""
    wanted = {str(file.resolve()) for file in files}
    for frame in list(sys._current_frames().values()):
        if line := innermost(traceback.extract_stack(frame), wanted):
            return line
    return ""


def line_of(error: BaseException, files: list[Path]) -> str:
    """The innermost line of the files in an error's traceback; empty if it was elsewhere."""
    wanted = {str(file.resolve()) for file in files}
    return innermost(traceback.extract_tb(error.__traceback__), wanted)


def innermost(stack: traceback.StackSummary, files: set[str]) -> str:
    """The last of the stack's lines in these files: `my_env.py, line 12, in respond`; empty without one."""
    steps = [step for step in stack if step.filename in files]
    return f"{Path(steps[-1].filename).name}, line {steps[-1].lineno}, in {steps[-1].name}" if steps else ""
