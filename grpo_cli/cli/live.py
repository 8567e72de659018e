"""Listeners that show a training run: a live display on a terminal, plain lines without one.

    with training_display(quiet=False) as listener:
        train(config, listener)

Everything goes to stderr. Notices and saved checkpoints are permanent lines; with `quiet` only the
notices and the final result are shown.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from rich.console import Console
from rich.text import Text

from grpo_cli.cli.dashboard import Dashboard
from grpo_cli.cli.figures import accuracy, duration, fields, magnitude, share, shown, timing
from grpo_cli.cli.picture import Picture
from grpo_cli.cli.progress import RunProgress
from grpo_cli.cli.run_page import RunPage, with_page
from grpo_cli.cli.summary import print_summary
from grpo_cli.cli.terminal import is_interactive, say, stderr_console
from grpo_cli.engine.events import (
    CheckpointSaved,
    EvaluationDone,
    Event,
    Listener,
    Loading,
    Notice,
    RunFinished,
    RunStarted,
    StepFinished,
    silent,
)
from grpo_cli.foreign_text import guard_output, one_line
from grpo_cli.outlet import lasting

REFRESHES_PER_SECOND = 5


class Display(Protocol):
    """Common base of the three ways of showing a run."""

    progress: RunProgress

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


@contextmanager
def training_display(
    quiet: bool = False, console: Console | None = None, is_first: bool = True
) -> Iterator[Listener]:
    """Show a run on stderr for the duration of the context, and the result at its end.

    After an exception the output stays and no result is printed. With several ranks only the first one shows
    anything.
    """
    if not is_first:
        yield silent
        return
    console = console or stderr_console()
    display: Display
    if quiet:
        display = QuietDisplay(console)
    elif is_interactive(console):
        display = LiveDisplay(console)
    else:
        display = PlainDisplay(console)
    page = RunPage(display)
    try:
        yield with_page(display, page)
    finally:
        # rich may raise anything; a failed display was reported, and must not hide the error of the run
        with suppress(Exception):
            display.close()
        with suppress(Exception):
            page.close()
    print_summary(console, display.progress, page.path)


class QuietDisplay:
    """Shows notices only."""

    def __init__(self, console: Console) -> None:
        self.console, self.progress = console, RunProgress()

    def __call__(self, event: Event) -> None:
        self.progress.take(event)
        if isinstance(event, Notice):
            with lasting():
                say(self.console, notice_line(event))

    def close(self) -> None:
        """Nothing to restore."""


class PlainDisplay(QuietDisplay):
    """One line per event, for logs and pipes: every `logging_steps` steps."""

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, Loading):
            say(self.console, Text(event.text, style="dim"))
        elif isinstance(event, RunStarted):
            say(self.console, Text(started_line(event)))
        elif isinstance(event, StepFinished) and self.is_logged(event.step):
            say(self.console, Text(step_line(self.progress)))
        elif isinstance(event, EvaluationDone):
            say(self.console, Text(evaluation_line(event)))
        elif isinstance(event, CheckpointSaved):
            say(self.console, checkpoint_line(event))

    def is_logged(self, step: int) -> bool:
        """True if this step gets a line."""
        run = self.progress.run
        return run is None or step % run.logging_steps == 0 or step == run.total_steps


class LiveDisplay:
    """The dashboard, redrawn a few times a second by rich's thread.

    It starts with RunStarted: code that loads before may show its own progress.
    """

    def __init__(self, console: Console) -> None:
        self.console, self.progress = console, RunProgress()
        self.live = Picture(
            Dashboard(self.progress),
            console,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=sys.stdout.isatty(),  # not to a file or a pipe
        )

    def __call__(self, event: Event) -> None:
        self.progress.take(event)
        if isinstance(event, Loading):
            say(self.console, Text(event.text, style="dim"))
        elif isinstance(event, RunStarted):
            self.live.start()
            guard_output()  # before rich turns escape sequences in a reward's output into styles
        elif isinstance(event, RunFinished):
            self.live.stop()
        elif isinstance(event, Notice):
            with lasting():
                say(self.console, notice_line(event))
        elif isinstance(event, CheckpointSaved):
            say(self.console, checkpoint_line(event))

    def close(self) -> None:
        """Keep the last frame and restore the cursor."""
        self.live.stop()


def total_steps(progress: RunProgress) -> int:
    """The run's length in steps, 0 while unknown."""
    return progress.run.total_steps if progress.run else 0


def notice_line(event: Notice) -> Text:
    """A notice on a single line."""
    return Text.assemble(("note: ", "yellow"), one_line(event.text))


def checkpoint_line(event: CheckpointSaved) -> Text:
    """The step and path of a checkpoint."""
    return Text.assemble(("saved ", "green"), f"step {event.step}  {one_line(str(event.path))}")


def started_line(event: RunStarted) -> str:
    """Model, dataset and output folder of a run."""
    trained = event.trainable_parameters
    return one_line(
        fields(
            ("model", event.model),
            ("parameters", magnitude(event.parameters)),
            ("trained", magnitude(trained) if trained != event.parameters else None),
            ("device", event.device),
            ("examples", f"{event.train_examples}"),
            ("too long", f"{event.skipped_prompts}" if event.skipped_prompts else None),
            ("steps", f"{event.total_steps}"),
            ("resumed after step", f"{event.resumed_at}" if event.resumed_at else None),
            ("run", str(event.run_dir)),
        )
    )


def step_line(progress: RunProgress) -> str:
    """The latest step: `step 12/60  reward 0.63  …  left 1m 20s`, without unknown values."""
    metrics, left = progress.metrics, progress.left()
    return fields(
        ("step", f"{progress.step}/{total_steps(progress)}"),
        ("reward", shown(metrics, "reward_mean", ".2f")),
        ("acc", share(metrics, "eval_accuracy")),
        ("length", shown(metrics, "completion_length_mean", ".1f")),
        ("loss", shown(metrics, "loss", ".4f")),
        ("kl", shown(metrics, "kl", ".4f")),
        ("lr", shown(metrics, "lr", ".3g")),
        ("rollout", timing(metrics, "rollout_seconds")),
        ("update", timing(metrics, "update_seconds")),
        ("", shown(metrics, "rollout_tokens_per_second", ".0f", " tok/s")),
        ("mem", shown(metrics, "peak_memory_gb", ".1f", " GB")),
        ("machine", ", ".join(metrics.get("machine_actions", [])) or None),
        ("left", None if left is None else duration(left)),
    )


def evaluation_line(event: EvaluationDone) -> str:
    """One evaluation: accuracy with its count, format, length and time."""
    metrics = event.metrics
    return fields(
        ("evaluation at step", f"{event.step}"),
        ("accuracy", accuracy(metrics)),
        ("format", share(metrics, "eval_format")),
        ("length", shown(metrics, "eval_length_mean", ".1f")),
        ("in", timing(metrics, "eval_seconds")),
    )
