"""The terminal: its two consoles, whether somebody watches, and what is safe to show.

Results that a program would read go to `stdout_console()`, everything else to `stderr_console()`.
Rich honours NO_COLOR. Text that came from a model or a dataset goes through `printable` before it is
shown, and every renderable through `safe`, which fits it to the stream's encoding.
"""

import unicodedata
from dataclasses import dataclass
from functools import cache

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

# One character for one, so that nothing moves: for streams that cannot take what we draw.
ASCII_FOR = str.maketrans("→·…–−×│┤╶─━╸█⏎“”‘’", ">|~--x|+---=#/\"\"''")


@cache
def stderr_console() -> Console:
    """The console for people: progress, notices, errors. One, so that a live display sees all of it."""
    return Console(stderr=True, highlight=False)


@cache
def stdout_console() -> Console:
    """The console for results."""
    return Console(highlight=False)


def is_interactive(console: Console) -> bool:
    """Whether the console can show a display that rewrites itself: a terminal, and not a dumb one.

    Asks the stream itself: FORCE_COLOR makes rich take a pipe for a terminal.
    """
    return console.is_interactive and console.file.isatty()


def ascii_only(console: Console) -> bool:
    """Whether the stream's encoding has no block and braille characters."""
    return console.options.ascii_only


def printable(text: str) -> str:
    """`text` as one line that can do nothing to the terminal but stand there.

    Line breaks become ⏎, other control characters their pictures (ESC: ␛), spaces of every kind a
    space; what is invisible or turns the direction of writing is dropped. Rich markup needs no
    escaping: the displays build `Text`, which does not read it.
    """
    return "".join(map(visible, text.strip().replace("\r\n", "\n")))


def visible_lines(text: str) -> str:
    """`text` with its line breaks and nothing else that could steer the terminal."""
    return "".join(char if char == "\n" else visible(char) for char in text)


def visible(char: str) -> str:
    """What stands for one character in `printable`."""
    if char.isprintable():
        return char
    if char == "\n":
        return "⏎"
    if char == "\t" or unicodedata.category(char) == "Zs":
        return " "
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))
    return "" if unicodedata.category(char) == "Cf" else "\ufffd"


def encodable(text: str, encoding: str) -> str:
    """`text` with what the encoding lacks replaced, character by character."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(ASCII_FOR).encode(encoding, "replace").decode(encoding)
    return text


@dataclass(frozen=True)
class Safe:
    """A renderable whose every piece of text fits the encoding of the console it is shown on."""

    renderable: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            if segment.control:  # the console's own sequences
                yield segment
            else:
                yield Segment(encodable(segment.text, console.encoding), segment.style)


def say(console: Console, line: RenderableType) -> None:
    """Print one unit on the console; long lines are neither wrapped nor cut, so that they can be copied."""
    console.print(Safe(line), soft_wrap=True, markup=False)
