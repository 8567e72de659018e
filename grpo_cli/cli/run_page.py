"""A listener that writes a run's page, report.html: every `report_every` steps, and at the end of every run.

    page = RunPage(tell=print)
    page(event)
    page.close()        # also after an interruption
    page.path           # None if there is no page

A page that comes too soon is left out: it reloads every REFRESH seconds only, and all pages together take at
most SHARE of a run's time. The first one is written at once. A page that cannot be written is reported once
and never ends or fails a run.
"""

import time
from collections.abc import Callable
from pathlib import Path

from grpo_cli.engine.events import Event, Listener, Notice, RunFinished, RunStarted, StepFinished, in_one_line

REFRESH = 20  # seconds between two reloads of a page while its run is training
SHARE = 0.01  # of the time, at most, for pages while a run is training


class RunPage:
    """The page of the run whose events it hears."""

    def __init__(self, tell: Listener) -> None:
        """`tell` receives a notice if the page cannot be written."""
        self.tell = tell
        self.run: RunStarted | None = None
        self.path: Path | None = None
        self.is_due = False  # there is something that is not on the page yet
        self.has_failed = False
        self.clock: Callable[[], float] = time.monotonic
        self.wait_until = float("-inf")  # the next page of a run that is training comes no sooner

    def __call__(self, event: Event) -> None:
        """Write the page if it is time to."""
        if isinstance(event, RunStarted):
            self.run, self.is_due = event, True
        elif isinstance(event, StepFinished):
            self.is_due = True
            every = self.run.report_every if self.run else 0
            if every and event.step % every == 0 and self.clock() >= self.wait_until:
                self.write(REFRESH)
        elif isinstance(event, RunFinished):
            self.is_due = True
            self.close()

    def close(self) -> None:
        """Write the page of what there is, without reloads."""
        if self.is_due:
            self.write(refresh=0)
            self.is_due = False

    def write(self, refresh: int) -> None:
        """Write the page; a failure is told once."""
        if self.run is None or self.has_failed:
            return
        since = self.clock()
        try:
            self.path = written_page(self.run.run_dir, refresh)
            spent = self.clock() - since
            self.wait_until = self.clock() + max(REFRESH, spent / SHARE)
        except Exception as error:  # a page is never worth a run
            self.has_failed, self.path = True, None
            self.tell(Notice(f"the page of the run cannot be written: {in_one_line(error)}"))


def written_page(folder: Path, refresh: int) -> Path | None:
    """Write the page of a run's folder; None for a run that keeps no log. Raises OSError."""
    from grpo_cli.files import write_file
    from grpo_cli.report.make import make_page
    from grpo_cli.report.page import PAGE
    from grpo_cli.report.read import METRICS, read_run

    if not (folder / METRICS).is_file():
        return None
    write_file(folder / PAGE, make_page([read_run(folder)], refresh))
    return folder / PAGE


def with_page(display: Callable[[Event], None], page: RunPage) -> Listener:
    """A listener that passes each event to the display, then to the page."""

    def listener(event: Event) -> None:
        try:
            display(event)
        finally:  # a display that fails is dropped, and the page with it until `close`
            page(event)

    return listener
