"""A picture at a terminal's lower end, drawn anew a few times a second, in a window of changing size too.

Rich erases as many rows as it has drawn lines. A terminal that was made narrower has wrapped these, so that
there are more rows; one that was made lower has pushed some of them out at its top, and most bring them back
when it is made higher. Each frame is one synchronised update (DEC private mode 2026): a terminal that knows
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
    """A live display that erases what it drew, and draws nothing while the frame before waits to be read."""

    def __init__(self, renderable: RenderableType, console: Console, **options: Any) -> None:
        super().__init__(renderable, console=console, **options)
        self._live_render = self.frame = Frame(renderable, console)

    def refresh(self) -> None:
        """Draw the picture anew; the last one in any case."""
        if not (self.is_started and getattr(self.console.file, "is_behind", False)):
            super().refresh()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Text to print above the picture, and the picture, as one update."""
        drawn = super().process_renderables(renderables)
        if not all(isinstance(printed, Control) for printed in renderables):
            self.frame.pushed_out = 0  # what comes back first is not the picture's any more
        return [sequence(BEGIN), *drawn, sequence(END)]


class Frame(LiveRender):
    """The lines drawn last, and the way back to their beginning."""

    def __init__(self, renderable: RenderableType, console: Console) -> None:
        super().__init__(renderable)
        self.console = console
        self.widths: list[int] = []  # cells of each line
        self.height = console.height  # of the terminal when it was drawn
        self.pushed_out = 0  # rows of it above the terminal's top

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments = [part for part in super().__rich_console__(console, options) if isinstance(part, Segment)]
        text = "".join(segment.text for segment in segments if not segment.control)
        self.widths, self.height = [cell_len(line) for line in text.split("\n")], console.height
        yield from segments

    def position_cursor(self) -> Control:
        """Erase what was drawn, however many rows it takes by now, and stand where it began."""
        if not self.widths:
            return Control()
        width, height = self.console.size
        rows = sum(max(1, -(-line // width)) for line in self.widths)
        brought_back = min(self.pushed_out, max(0, height - self.height))
        self.pushed_out += max(0, rows - height) - brought_back
        # Row by row: some terminals keep in their history what is erased at once.
        return sequence("\r\x1b[2K" + "\x1b[A\x1b[2K" * (rows - 1 + brought_back))


def sequence(text: str) -> Control:
    """Something for the terminal itself."""
    control = Control()
    control.segment = Segment(text, None, [(ControlType.CARRIAGE_RETURN,)])  # rich wants a name for it
    return control
