"""A live display at the bottom of a terminal, redrawn a few times a second, in a window of changing size.

Rich erases as many rows as it has drawn lines. A narrower terminal has wrapped these lines, so that
there are more rows; a lower one has pushed some of them out at the top, and most bring them back
when enlarged. Each frame is one synchronized update (DEC private mode 2026): a terminal that knows
the mode shows it whole or not at all; others ignore it.
"""

from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.live_render import LiveRender
from rich.segment import ControlType, Segment

BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"


class Picture(Live):
    """A live display that erases exactly what it drew, and skips frames until the last one was read."""

    def __init__(self, renderable: RenderableType, console: Console, **options: Any) -> None:
        super().__init__(renderable, console=console, **options)
        self._live_render = self.frame = Frame(renderable, console)

    def refresh(self) -> None:
        """Redraw the display; the last frame is never skipped."""
        if not (self.is_started and getattr(self.console.file, "is_behind", False)):
            super().refresh()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Text to print above the display, and the display, as one update."""
        drawn = super().process_renderables(renderables)
        if not all(isinstance(printed, Control) for printed in renderables):
            self.frame.pushed_out = 0  # rows that come back first no longer belong to the display
        return [sequence(BEGIN), *drawn, sequence(END)]


class Frame(LiveRender):
    """The lines drawn last, and the way back to their start."""

    def __init__(self, renderable: RenderableType, console: Console) -> None:
        super().__init__(renderable)
        self.console = console
        self.widths: list[int] = []  # cells of each line
        self.height = console.height  # the terminal's height when it was drawn
        self.pushed_out = 0  # its rows above the terminal's top

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments = [part for part in super().__rich_console__(console, options) if isinstance(part, Segment)]
        text = "".join(segment.text for segment in segments if not segment.control)
        self.widths, self.height = [cell_len(line) for line in text.split("\n")], console.height
        yield from segments

    def position_cursor(self) -> Control:
        """Erase the drawn lines, however many rows they take now, and move to their start."""
        if not self.widths:
            return Control()
        width, height = self.console.size
        rows = sum(max(1, -(-line // width)) for line in self.widths)
        brought_back = min(self.pushed_out, max(0, height - self.height))
        self.pushed_out += max(0, rows - height) - brought_back
        # Row by row: some terminals keep rows in their history if erased at once.
        return sequence("\r\x1b[2K" + "\x1b[A\x1b[2K" * (rows - 1 + brought_back))


def sequence(text: str) -> Control:
    """A raw control sequence for the terminal."""
    control = Control()
    control.segment = Segment(text, None, [(ControlType.CARRIAGE_RETURN,)])  # rich requires a type for it
    return control
