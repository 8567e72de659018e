"""`python -m tests.bench.picture FILE.svg`: README's picture, drawn from a real run.

    python -m tests.bench.picture .github/run.svg

Trains the embedded model as `grpo train --config smoke_test.toml` does, in a folder that is deleted
afterwards, and writes the terminal as it stands at the end: the display's last frame and the result.
"""

import contextlib
import io
import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.text import Text

from grpo_cli import device
from grpo_cli.cli.dashboard import Dashboard
from grpo_cli.cli.live import QuietDisplay, checkpoint_line
from grpo_cli.cli.progress import RunProgress
from grpo_cli.cli.summary import print_summary
from grpo_cli.cli.terminal import TerminalConsole, say
from grpo_cli.config.load import load_config
from grpo_cli.engine.events import CheckpointSaved, Event

COMMAND = "grpo train --config smoke_test.toml"
COLUMNS, ROWS = 100, 32
FONT_FACE = re.compile(
    r"@font-face \{\{.*?\}\}\s*", re.DOTALL
)  # a page that shows a picture loads no font for it


class Recorder(QuietDisplay):
    """Keeps what the live display leaves above its frame: notices and checkpoints."""

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, CheckpointSaved):
            say(self.console, checkpoint_line(event))


def recording_console() -> TerminalConsole:
    """A terminal of the picture's size that writes nowhere."""
    console = TerminalConsole(
        file=io.StringIO(), record=True, force_terminal=True, width=COLUMNS, height=ROWS, highlight=False,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    say(console, Text(f"$ {COMMAND}", style="bold"))
    return console


def svg(console: TerminalConsole, progress: RunProgress) -> str:
    """The picture of a finished run on `console`, which has what was said before."""
    console.print(Dashboard(progress))
    print_summary(console, progress)
    code = FONT_FACE.sub("", CONSOLE_SVG_FORMAT)
    return console.export_svg(title="grpo", code_format=code, unique_id="run")


def main(file: Annotated[Path, typer.Argument(help="The SVG to write.")]) -> None:
    """Train the embedded model and draw the end of the run."""
    device.prepare()
    from grpo_cli.engine.train import train

    target, display = file.resolve(), Recorder(recording_console())
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        train(load_config("smoke_test.toml").config, display)
        text = svg(display.console, display.progress)
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
