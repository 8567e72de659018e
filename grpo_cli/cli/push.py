"""`grpo convert --push`: show what would be uploaded, ask, and upload."""

from typing import TYPE_CHECKING

import typer
from rich.filesize import decimal
from rich.text import Text

from grpo_cli.cli.doing import doing
from grpo_cli.cli.terminal import is_interactive, say, stderr_console, stdout_console
from grpo_cli.foreign_text import one_line
from grpo_cli.words import plural

if TYPE_CHECKING:
    from grpo_cli.convert.options import Conversion
    from grpo_cli.convert.push import Upload


def push(done: "Conversion", source: str, to: str, repository: str, *, is_public: bool, yes: bool) -> None:
    """Upload a converted folder with its model card, after a yes.

    Raises ConversionError if the hub refuses, or if the folder is of no use to others.
    """
    from grpo_cli.convert.model_card import base_name, model_card
    from grpo_cli.convert.push import plan, send
    from grpo_cli.models.find import find_model

    folder = find_model(source)
    card = model_card(folder, base_name(folder, source), to)
    upload = plan(done.output, repository, card, not is_public)
    show(upload)
    if not (yes or agreed(upload)):
        say(stderr_console(), Text("Nothing was uploaded."))
        return
    with doing(f"uploading {decimal(upload.size)} …"):
        address = send(upload)
    say(stdout_console(), Text(f"Uploaded to {address}"))


def show(upload: "Upload") -> None:
    """Print the files, their sizes and the card on stderr."""
    console = stderr_console()
    kind = "private" if upload.is_private else "public"
    files, size = plural(len(upload.files), "file"), decimal(upload.size)
    say(console, Text(f"\nWould upload {files}, {size}, to {upload.repository} ({kind} if it is new):"))
    for name, count in upload.files:
        say(console, Text(f"  {decimal(count):>10}  {one_line(name)}"))
    say(console, Text("\nREADME.md:", style="bold"))
    for line in upload.card.splitlines():
        say(console, Text(f"  {one_line(line)}", style="dim"))


def agreed(upload: "Upload") -> bool:
    """The user's answer; without a terminal it is no."""
    if not is_interactive(stderr_console()):
        say(stderr_console(), Text("To upload this, add --yes to the command."))
        return False
    return typer.confirm(f"Upload to {upload.repository}?", default=False, err=True)
