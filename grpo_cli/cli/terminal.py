"""The terminal: its two consoles, whether somebody watches, and what is safe to show.

Results that a program would read go to `stdout_console()` or `print_json`, everything else to
`stderr_console()`. Rich honours NO_COLOR. What a console shows can do nothing to the terminal, wherever its
text came from (foreign_text.py); `Safe` fits a renderable to the stream's encoding as well.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import IO, Any

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from grpo_cli.foreign_text import safe_json, visible

WORD = re.compile(r"`[^`\s]{1,24}(?: [^`\s]+){0,7}`[^\s`]*|\S+")  # or a command of a few words
# One character for one, so that nothing moves: for streams that cannot take what we draw.
ASCII_FOR = str.maketrans("→·…–−×│┤╶─━╸█⏎“”‘’", ">|~--x|+---=#/\"\"''")


class TerminalConsole(Console):
    """A console on which text can do nothing but stand there; styles are ours, links are nobody's."""

    @property
    def file(self) -> IO[str]:
        """The stream itself: its guard would take the console's own sequences for foreign ones."""
        file = super().file
        while (behind := getattr(file, "rich_proxied_file", None)) is not None:
            file = behind
        return file

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The renderable's segments, their text made harmless."""
        return map(harmless, super().render(renderable, options))


def harmless(segment: Segment) -> Segment:
    """A segment whose text steers nothing; the console's own sequences as they are."""
    text, style, control = segment
    if control:
        return segment
    # A link's address is a sequence too: a live display makes some of what a reward prints.
    return Segment(visible(text), style.update_link(None) if style is not None and style.link else style)


@cache
def stderr_console() -> Console:
    """The console for people: progress, notices, errors. One, so that a live display sees all of it."""
    return TerminalConsole(stderr=True, highlight=False)


@cache
def stdout_console() -> Console:
    """The console for results."""
    return TerminalConsole(highlight=False)


def print_json(document: Any) -> None:
    """One JSON document on stdout, for programs and safe to look at."""
    typer.echo(safe_json(document, indent=2))


def is_interactive(console: Console) -> bool:
    """Whether the console can show a display that rewrites itself: a terminal, and not a dumb one.

    Asks the stream itself: FORCE_COLOR makes rich take a pipe for a terminal.
    """
    return console.is_interactive and console.file.isatty()


def ascii_only(console: Console) -> bool:
    """Whether the stream's encoding has no block and braille characters."""
    return console.options.ascii_only


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
        for segment in map(harmless, console.render(self.renderable, options)):
            if segment.control:
                yield segment
            else:
                yield Segment(encodable(segment.text, console.encoding), segment.style)


def say(console: Console, line: RenderableType) -> None:
    """Print one unit: on a terminal its lines break between words, elsewhere they stay as they are."""
    shown = as_started(line) if isinstance(line, Text) else line
    if isinstance(shown, Text) and is_interactive(console):
        shown = broken_at_words(shown, console.width)
    console.print(Safe(shown), soft_wrap=True, markup=False)


def as_started(text: Text) -> Text:
    """The text with its commands as they run where this one was started: with `uv run` where that was."""
    return Text(f"`{typed('grpo ')}").join(text.split("`grpo ")) if typed("grpo ") != "grpo " else text


def typed(command: str) -> str:
    """A command of ours as it is typed where this one was started."""
    under_uv = "UV_RUN_RECURSION_DEPTH" in os.environ  # uv sets it for what it runs
    return f"uv run {command}" if under_uv and command.startswith("grpo ") else command


def broken_at_words(text: Text, width: int) -> Text:
    """The text with line breaks between words, for a terminal would break them in the middle.

    A command in backticks stays whole where a line can hold it; what follows a break stands under its line's
    own beginning.
    """
    lines = text.split("\n", allow_blank=True)
    return Text("\n").join(piece for line in lines for piece in _pieces(line, width))


def _pieces(line: Text, width: int) -> list[Text]:
    margin = len(line.plain) - len(line.plain.lstrip())
    room, start, breaks = width, margin, []
    for word in WORD.finditer(line.plain, margin):
        if cell_len(line.plain[start : word.end()]) + margin > room and word.start() > start:
            breaks.append(word.start())
            start = word.start()
    pieces = line.divide(breaks)
    for piece in pieces:
        piece.rstrip()
    return [pieces[0], *(Text(" " * margin) + piece for piece in pieces[1:])]
