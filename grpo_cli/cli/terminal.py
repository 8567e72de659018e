"""The terminal: its two consoles, interactivity, and safe output.

Results for programs go to `stdout_console()` or `print_json`, everything else to
`stderr_console()`. Rich honours NO_COLOR. Text on a console cannot control the terminal, wherever the
text came from (foreign_text.py); `Safe` also adapts a renderable to the stream's encoding.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import IO, Any

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from grpo_cli.foreign_text import safe_json, visible

ARGUMENT = r"""(?:"[^"]*"|'[^']*'|[^\s`])+"""  # of a command, including quotes
COMMAND = re.compile(rf"[^\s`]*`(?:(?:python3 -m )?uv run )?(?:grpo|mlx_lm\.\w+)(?: {ARGUMENT})+`[^\s`]*")
WORD = re.compile(r"[^\s`]*`[^`\s]{1,24}(?: [^`\s]+){0,7}`[^\s`]*|\S+")  # or code of a few words
CONTINUED = " \\"  # line continuation in a shell
# One character for one, so that the layout stays: for streams that cannot encode our drawing characters.
ASCII_FOR = str.maketrans("→·…–−×│┤╶─━╸█●⏎“”‘’", ">|~--x|+---=#o/\"\"''")


class TerminalConsole(Console):
    """A console whose text cannot control the terminal; only our own styles apply, and links are dropped."""

    @property
    def file(self) -> IO[str]:
        """The unguarded stream: its guard would treat the console's own sequences as foreign."""
        file = super().file
        while (behind := getattr(file, "rich_proxied_file", None)) is not None:
            file = behind
        return file

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The renderable's segments with harmless text."""
        return map(harmless, super().render(renderable, options))


def harmless(segment: Segment) -> Segment:
    """A segment without control characters in its text; the console's own sequences stay."""
    text, style, control = segment
    if control:
        return segment
    # A link's address is a sequence too: a live display creates some from the output of rewards.
    return Segment(visible(text), style.update_link(None) if style is not None and style.link else style)


@cache
def stderr_console() -> Console:
    """The console for progress, notices and errors. A single one, so that a live display sees all of it."""
    return TerminalConsole(stderr=True, highlight=False)


@cache
def stdout_console() -> Console:
    """The console for results."""
    return TerminalConsole(highlight=False)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout, escaped so that it is also safe on a terminal."""
    typer.echo(safe_json(document, indent=2))


def is_interactive(console: Console) -> bool:
    """True if the console can show a display that rewrites itself: a terminal that is not "dumb".

    Checks the stream itself: with FORCE_COLOR rich treats a pipe as a terminal.
    """
    return console.is_interactive and console.file.isatty()


def ascii_only(console: Console) -> bool:
    """True if the stream's encoding lacks block and braille characters."""
    return console.options.ascii_only


def encodable(text: str, encoding: str) -> str:
    """`text` with characters that the encoding lacks replaced one by one."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(ASCII_FOR).encode(encoding, "replace").decode(encoding)
    return text


@dataclass(frozen=True)
class Safe:
    """A renderable adapted to the encoding of the console it is shown on."""

    renderable: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in map(harmless, console.render(self.renderable, options)):
            if segment.control:
                yield segment
            else:
                yield Segment(encodable(segment.text, console.encoding), segment.style)


def say(console: Console, line: RenderableType) -> None:
    """Print one unit: wrapped between words on a terminal, unchanged elsewhere."""
    shown = as_started(line) if isinstance(line, Text) else line
    if isinstance(shown, Text) and is_interactive(console):
        shown = broken_at_words(shown, console.width)
    console.print(Safe(shown), soft_wrap=True, markup=False)


def say_command(console: Console, command: str) -> None:
    """Print a command to copy, indented by two; on a terminal in lines that a shell joins."""
    lines = broken_command(typed(command), console.width - 2) if is_interactive(console) else [typed(command)]
    for line in lines:
        console.print(Safe(Text(f"  {line}", style="cyan")), soft_wrap=True, markup=False)


def broken_command(command: str, width: int) -> list[str]:
    """A command split into lines between arguments, never within quotes; a single line if it fits."""
    if cell_len(command) <= width:
        return [command]
    lines = [""]
    for argument in units_of(command, width - len(f"  {CONTINUED}")):
        longer = f"{lines[-1]} {argument}" if lines[-1].strip() else f"{lines[-1]}{argument}"
        if cell_len(longer + CONTINUED) > width and lines[-1].strip():
            lines[-1] += CONTINUED
            lines.append(f"  {argument}")
        else:
            lines[-1] = longer
    return lines


def units_of(command: str, room: int) -> Iterator[str]:
    """A command's arguments; an option keeps its value if both fit on a line."""
    for option, value, other in re.findall(rf"(--[\w-]+) (?!-)({ARGUMENT})|({ARGUMENT}|\S+)", command):
        together = f"{option} {value}".strip()
        yield from [other] if other else [together] if cell_len(together) <= room else [option, value]


def as_started(text: Text) -> Text:
    """The text with its commands in the form used to start this one: with `uv run` if that was used."""
    return Text(f"`{typed('grpo ')}").join(text.split("`grpo ")) if typed("grpo ") != "grpo " else text


def typed(command: str) -> str:
    """One of our commands in the form used to start this one."""
    under_uv = "UV_RUN_RECURSION_DEPTH" in os.environ  # uv sets it for its child processes
    if not under_uv or not command.startswith(("grpo ", "mlx_lm.")):
        return command
    return f"{uv()} run {command}"


@cache
def uv() -> str:
    """The command for uv: one that pip installed for a single user may not be on PATH."""
    return "uv" if shutil.which("uv") else "python3 -m uv"


def broken_at_words(text: Text, width: int) -> Text:
    """The text with line breaks between words; a terminal would break within them.

    A command in backticks stays whole if it fits on a line; otherwise it is broken between arguments with
    shell continuations. Continuation lines start under the beginning of their line.
    """
    lines = text.split("\n", allow_blank=True)
    return Text("\n").join(piece for line in lines for piece in _pieces(line, width))


def _pieces(line: Text, width: int) -> list[Text]:
    margin = len(line.plain) - len(line.plain.lstrip())
    start, breaks = margin, {}  # where a piece begins: what the one before it ends with
    for begin, end, joint in _units(line.plain, margin, width - margin):
        if cell_len(line.plain[start:end]) > width - margin and begin > start:
            breaks[begin] = joint
            start = begin
    pieces = line.divide(breaks)
    for piece, joint in zip(pieces, [*breaks.values(), ""], strict=True):
        piece.rstrip()
        piece.append(joint)
    return [pieces[0], *(Text(" " * margin) + piece for piece in pieces[1:])]


def _units(text: str, start: int, room: int) -> Iterator[tuple[int, int, str]]:
    """The pieces before which a line break may stand: begin, end, and the text of such a break."""
    while start < len(text):
        command = COMMAND.match(text, start)
        word = command or WORD.match(text, start)
        if word is None:
            start += 1
        elif command and cell_len(command[0]) > room:
            yield from _arguments(command)
            start = command.end()
        else:
            yield word.start(), word.end(), ""
            start = word.end()


def _arguments(command: re.Match[str]) -> Iterator[tuple[int, int, str]]:
    found = list(re.finditer(rf"{ARGUMENT}[`\S]*|\S+", command[0]))
    for number, argument in enumerate(found):
        is_last = number == len(found) - 1
        end = argument.end() + (0 if is_last else len(CONTINUED))  # space for the continuation
        yield command.start() + argument.start(), command.start() + end, CONTINUED if number else ""
