"""`grpo train`: run a whole training from a configuration."""

from typing import Annotated

import typer
from rich.text import Text

from grpo_cli.cli.config import SetOption, show_warnings
from grpo_cli.cli.heavy import start_device
from grpo_cli.cli.ranks import ranks
from grpo_cli.cli.terminal import is_interactive, say, stderr_console
from grpo_cli.outlet import hold_nobody


def train(
    config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="FILE|NAME", help="A path, or the name of a shipped configuration (prod)."
        ),
    ] = None,
    set_: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load everything, make one tiny step, save nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show only notices and the result.")] = False,
) -> None:
    """Train a model; everything it makes goes to <output_dir>/<run_name>."""
    from grpo_cli.config.load import load_config

    hold_nobody()
    with ranks() as world:
        loaded = load_config(config, set_ or (), on_this_machine=True)
        if world.is_first:
            show_warnings(loaded.warnings)
            if not quiet and is_interactive(stderr_console()):
                say(stderr_console(), Text(f"loading {loaded.config.model_name} …", style="dim"))
        start_device()
        from grpo_cli.cli.live import training_display
        from grpo_cli.engine import run

        if dry_run:
            with training_display(quiet=True, is_first=world.is_first) as listener:
                line = run.dry_run(loaded.config, listener, world)
            if world.is_first:
                say(stderr_console(), Text(dry_run_report(line), style="green"))
            return
        with training_display(quiet, loaded.config.logging_steps, is_first=world.is_first) as listener:
            run.train(loaded.config, listener, world)


def dry_run_report(line: dict[str, float]) -> str:
    """What the one step did, in a sentence."""
    return (
        f"✓ model, data and rewards load; one small step took {line['step_seconds']:.1f} s "
        f"(reward {line['reward_mean'] or 0.0:.2f}, grad_norm {line['grad_norm']:.3f}, "
        f"peak memory {line['peak_memory_gb']:.2f} GB). Nothing was saved."
    )
