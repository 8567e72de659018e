"""`grpo resume`: go on with a run that was interrupted, killed, or is to be longer."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from grpo_cli.cli.config import SetOption
from grpo_cli.cli.heavy import start_device
from grpo_cli.cli.ranks import ranks
from grpo_cli.cli.terminal import is_interactive, say, stderr_console
from grpo_cli.outlet import hold_nobody


def resume(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A run's folder (its newest intact checkpoint) or one checkpoint.",
            show_default=False,
        ),
    ],
    set_: SetOption = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again from step 0; what is there is kept aside.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Go on though rewards or examples are not as they were."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show only notices and the result.")] = False,
) -> None:
    """Go on with a run as if it had never been interrupted."""
    hold_nobody()
    with ranks() as world:
        if world.is_first and not quiet and is_interactive(stderr_console()):
            say(stderr_console(), Text(f"looking for the newest checkpoint in {path} …", style="dim"))
        start_device()
        from grpo_cli.cli.live import training_display
        from grpo_cli.engine.resume import resume as resume_run

        with training_display(quiet, is_first=world.is_first) as listener:
            resume_run(path, set_ or (), listener, world, restart=restart, accept_changes=accept_changes)
