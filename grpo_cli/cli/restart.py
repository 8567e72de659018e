"""A run that restarts itself: the process is replaced by `grpo resume`, with a fresh device.

    with restarting(["--quiet"]):
        train(config, listener)         # Restart ends this process; the new one resumes the run

At most MOST_RESTARTS times within an hour, counted in an environment variable; then the error ends the run.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.text import Text

from grpo_cli.cli.terminal import say, stderr_console
from grpo_cli.errors import TrainingError
from grpo_cli.foreign_text import visible
from grpo_cli.outlet import lasting, pass_on_stderr
from grpo_cli.supervise import LAST_DEVICE

MOST_RESTARTS = 5  # within an hour
HOUR = 3600.0
TIMES = "GRPO_RESTARTED_AT"  # the Unix times of the restarts so far, separated by commas


@contextmanager
def restarting(words: Sequence[str] = (), is_alone: bool = True) -> Iterator[None]:
    """Within the block Restart replaces the process. `words`: options of `grpo resume` for the new one.

    A device lost while the run loads is DeviceLost, as in a step. `is_alone`: False for one of several ranks.
    """
    folder = Path.cwd()  # code that a run calls may change it
    try:
        yield
    except (TrainingError, RuntimeError) as error:
        from grpo_cli import device
        from grpo_cli.engine.recovery import DeviceLost, Restart, ending_of

        if isinstance(error, RuntimeError) and isinstance(ending := ending_of(error), DeviceLost):
            raise ending from error
        if not isinstance(error, Restart) or error.run_dir is None or not is_alone:
            raise
        times = [*restarts(os.environ.get(TIMES, ""), time.time()), time.time()]
        if len(times) > MOST_RESTARTS:
            raise
        notes = "\n".join(getattr(error, "__notes__", ()))
        with lasting():
            text = f"{error.message}\n{notes}\nRestarting in a new process.".replace("\n\n", "\n")
            say(stderr_console(), Text(visible(text), style="yellow"))
        os.chdir(folder)
        os.environ.update(error.environment)
        os.environ[TIMES] = ",".join(f"{moment:.0f}" for moment in times)
        os.environ[LAST_DEVICE] = device.prepare().kind
        replace_process(error.run_dir, words)


def restarts(value: str, now: float) -> list[float]:
    """The times of restarts within the last hour. Anything but a time is left out."""
    times = [float(text) for text in value.split(",") if text.isdecimal()]
    return [moment for moment in times if now - HOUR < moment <= now]


def replace_process(run_dir: Path, words: Sequence[str]) -> None:
    """Replace this process by one that resumes the run; does not return."""
    pass_on_stderr()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "grpo_cli", "resume", str(run_dir), *words])
