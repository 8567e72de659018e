"""`grpo resume`: resume a run that was interrupted or killed, or extend a finished one."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from grpo_cli.cli.doing import doing
from grpo_cli.cli.options import (
    DatasetKey,
    MaxStepsKey,
    ModelKey,
    OutputDirKey,
    RunNameKey,
    SeedKey,
    SetOption,
    given,
)
from grpo_cli.cli.ranks import ranks
from grpo_cli.cli.restart import restarting
from grpo_cli.cli.supervised import become_supervisor, options, start_same_device, tell_supervisor
from grpo_cli.cli.terminal import is_interactive, say, stderr_console
from grpo_cli.outlet import hold_nobody
from grpo_cli.uncollected import uncollected


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
        bool,
        typer.Option("--restart", help="Start over from step 0; existing files are kept under other names."),
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Resume even if rewards or examples have changed."),
    ] = False,
    model: ModelKey = None,
    dataset: DatasetKey = None,
    output_dir: OutputDirKey = None,
    run_name: RunNameKey = None,
    max_steps: MaxStepsKey = None,
    seed: SeedKey = None,
    supervise: Annotated[
        bool, typer.Option("--supervise", help="Resume the run after a crash, at most 5 times an hour.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show only notices and the result.")] = False,
) -> None:
    """Resume an interrupted run.

    It continues as if it had never been interrupted; --max-steps makes it longer.
    """
    if supervise:
        become_supervisor()
    shortcuts = given(model_name=model, dataset=dataset, output_dir=output_dir, run_name=run_name,
                      max_steps=max_steps, seed=seed)  # fmt: skip
    overrides = [*shortcuts, *(set_ or ())]
    with doing(f"looking for the newest checkpoint in {path} …"):
        from grpo_cli.engine.run_dir.folder import locate
        from grpo_cli.files import chosen_path, from_here

    hold_nobody()
    with ranks() as world:
        if world.is_first and not quiet and is_interactive(stderr_console()):
            say(stderr_console(), Text(f"looking for the newest checkpoint in {path} …", style="dim"))
        if world.is_first:
            run_dir = locate(from_here(chosen_path(path)))[0].absolute()  # before the slow import of MLX
        with restarting():  # names a device that was lost
            kind = start_same_device()
        with uncollected():
            from grpo_cli.cli.live import training_display
            from grpo_cli.engine.events import Event, RunStarted
            from grpo_cli.engine.resume import resume as resume_run

        again = options(quiet, overrides, accept_changes)
        with (
            restarting(again, world.size == 1),
            training_display(quiet, is_first=world.is_first) as display,
        ):

            def listener(event: Event) -> None:
                if isinstance(event, RunStarted) and world.is_first:
                    # Not before: until the folder has the new configuration, a restart needs this command.
                    tell_supervisor(kind, run_dir, again)
                display(event)

            resume_run(path, overrides, listener, world, restart=restart, accept_changes=accept_changes)
