"""A display that sleeps, so that macOS leaves the GPU to the run.

    display = Display(sleeps=config.display_sleep)
    display.rest()                     # at the start of the run
    display.after_interactivity()      # words for the notice of such an error

macOS ends a command of the GPU that delays the screen ("Impacting Interactivity", MTLCommandBufferError), and
only while a display is on. `caffeinate -is` keeps the machine awake all the same; `-d` would keep the display
on and bring these errors about (mlx#3267).
"""

from dataclasses import dataclass, field

from grpo_cli.engine.host.system import System

OFFER = (
    "; macOS raises this only while a display is on: `pmset displaysleepnow` in another terminal, and "
    "`display_sleep = true` for the next run"
)


@dataclass
class Display:
    """This machine's display. `sleeps`: the run may put it to sleep."""

    sleeps: bool
    system: System = field(default_factory=System)

    def rest(self) -> bool:
        """Put the display to sleep, if the run may and this is a Mac; True if that was done."""
        if not self.sleeps or self.system.system != "Darwin":
            return False
        return self.system.output("pmset", "displaysleepnow") is not None

    def after_interactivity(self) -> str:
        """Put the display to sleep or offer it; words for the notice of the error."""
        return "; the display was put to sleep" if self.rest() else OFFER
