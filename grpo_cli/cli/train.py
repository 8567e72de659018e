"""`grpo train`: run a whole training from a configuration."""

from typing import Annotated, Any

import typer
from rich.text import Text

from grpo_cli.cli.config import show_warnings
from grpo_cli.cli.doing import doing
from grpo_cli.cli.early import check_names, find
from grpo_cli.cli.options import (
    ConfigArgument,
    ConfigOption,
    DatasetKey,
    MaxStepsKey,
    ModelKey,
    OutputDirKey,
    RunNameKey,
    SeedKey,
    SetOption,
    given,
    one_of,
)
from grpo_cli.cli.ranks import ranks
from grpo_cli.cli.restart import restarting
from grpo_cli.cli.supervised import become_supervisor, options, start_same_device, tell_supervisor
from grpo_cli.cli.terminal import is_interactive, say, stderr_console
from grpo_cli.outlet import hold_nobody
from grpo_cli.uncollected import uncollected


def train(
    config_: ConfigArgument = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    model: ModelKey = None,
    dataset: DatasetKey = None,
    output_dir: OutputDirKey = None,
    run_name: RunNameKey = None,
    max_steps: MaxStepsKey = None,
    seed: SeedKey = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load everything, run one tiny step, save nothing.")
    ] = False,
    supervise: Annotated[
        bool, typer.Option("--supervise", help="Resume the run after a crash, at most 5 times an hour.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show only notices and the result.")] = False,
) -> None:
    """Train a model.

    A run writes everything to <output_dir>/<run_name>. With --model and --dataset no configuration is needed:
    every other key has its default.
    """
    if supervise:
        become_supervisor()
    with doing("reading the configuration …"):
        from grpo_cli.config.load import load_config
        from grpo_cli.engine.run_dir.folder import refuse_existing_run

    name = one_of(config, config_, "--config")
    shortcuts = given(model_name=model, dataset=dataset, output_dir=output_dir, run_name=run_name,
                      max_steps=max_steps, seed=seed)  # fmt: skip
    overrides = [*shortcuts, *(set_ or ())]
    required = model is None or dataset is None
    hold_nobody()
    with ranks() as world:
        loaded = load_config(name, overrides, required=required, on_this_machine=True)
        if world.is_first:
            show_warnings(loaded.warnings)
        shows = world.is_first and not quiet
        with doing(f"looking for {loaded.config.model_name} …", shown=shows) as show:
            if world.is_first:
                refuse_existing_run(loaded.config.run_dir)
            check_names(loaded.config, [loaded.config.model_name], show)
            if loaded.config.adapter:
                find(loaded.config.adapter, show, loaded.config.model_name)
        if shows and is_interactive(stderr_console()):
            say(stderr_console(), Text(f"loading {loaded.config.model_name} …", style="dim"))
        with restarting():  # names a device that was lost
            kind = start_same_device(loaded.config.exact_float32)
        with uncollected():
            from grpo_cli.cli.live import training_display
            from grpo_cli.engine import dry_run as trial
            from grpo_cli.engine import train as training

        again = options(quiet)
        tell_supervisor(kind, loaded.config.run_dir, again)
        if dry_run:
            with training_display(quiet=True, is_first=world.is_first) as listener:
                line = trial.dry_run(loaded.config, listener, world)
            if world.is_first:
                say(stderr_console(), Text(dry_run_report(line), style="green"))
            return
        with (
            restarting(again, world.size == 1),
            training_display(quiet, is_first=world.is_first) as listener,
        ):
            training.train(loaded.config, listener, world)


def dry_run_report(line: dict[str, Any]) -> str:
    """The result of the dry run's step in one sentence."""
    mean = line["reward_mean"]
    reward = "none: every reward returned None" if mean is None else f"{mean:.2f}"
    return (
        f"✓ model, data and rewards load; one small step took {line['step_seconds']:.1f} s "
        f"(reward {reward}, grad_norm {line['grad_norm']:.3f}, "
        f"peak memory {line['peak_memory_gb']:.2f} GB). Nothing was saved."
    )
