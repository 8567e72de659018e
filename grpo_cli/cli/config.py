"""`grpo config`: validate, show, init and schema. Nothing here loads a model or MLX."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from grpo_cli.cli.doing import doing
from grpo_cli.cli.errors import show_error
from grpo_cli.cli.help import GrpoCommand, examples
from grpo_cli.cli.options import SetOption
from grpo_cli.cli.output_file import OutputFile
from grpo_cli.cli.terminal import print_json, say, stderr_console, stdout_console
from grpo_cli.errors import ConfigError
from grpo_cli.foreign_text import quoted, safe_toml

if TYPE_CHECKING:  # the schema imports pydantic: a third of a second that `grpo --help` does not need
    from grpo_cli.config.load import Inspection, LoadedConfig
    from grpo_cli.config.problems import Problem

config_app = typer.Typer(
    no_args_is_help=True,
    help="Check, show and write configurations.",
    epilog=examples(
        "grpo config validate prod.toml",
        "grpo config init my.toml --from smoke_test",
    ),
)


@config_app.command(
    cls=GrpoCommand,
    epilog=examples(
        "grpo config validate configs/prod.toml my.toml",
        "grpo config validate prod --set num_generations=16 --json",
    ),
)
def validate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE|NAME", help="Files, or names of shipped configurations.")
    ],
    set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check configuration files.

    Reports every problem in each file; the exit code is 2 if there is any.
    """
    with doing(f"reading {', '.join(files)} …", shown=not as_json):
        from grpo_cli.config.load import inspect_config

    inspections = [inspect_config(name, set_ or (), on_this_machine=True) for name in files]
    if as_json:
        print_json(_as_document(inspections))
    else:
        for inspection in inspections:
            _report(inspection)
    if any(inspection.problems for inspection in inspections):
        raise typer.Exit(ConfigError.exit_code)


def _report(inspection: "Inspection") -> None:
    """The details on stderr as in `grpo train`, then a one-line verdict on stdout."""
    from grpo_cli.config.problems import config_error

    if inspection.problems:
        show_error(config_error(inspection.problems, inspection.name))
        count = len(inspection.problems)
        verdict = Text(f"✗ {inspection.name}: {count} problem{'s' if count > 1 else ''}", style="red")
    else:
        verdict = Text(f"✓ {inspection.name}", style="green")
    show_warnings(inspection.warnings)
    say(stdout_console(), verdict)


def show_warnings(warnings: "list[Problem]") -> None:
    """Print each warning on stderr as `! file:line: what; cure`."""
    for warning in warnings:
        where = f"{warning.place}: " if warning.place else ""
        say(stderr_console(), Text(f"! {where}{warning.message}; {warning.cure}", style="yellow"))


def _as_document(inspections: "list[Inspection]") -> dict[str, Any]:
    files = [
        {
            "file": inspection.name,
            "valid": not inspection.problems,
            "problems": [problem.as_row() for problem in inspection.problems],
            "warnings": [warning.as_row() for warning in inspection.warnings],
        }
        for inspection in inspections
    ]
    return {"valid": all(file["valid"] for file in files), "files": files}


@config_app.command(
    cls=GrpoCommand,
    epilog=examples(
        "grpo config show prod",
        "grpo config show my.toml --set lora_rank=8 > merged.toml",
    ),
)
def show(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE|NAME", help="Default: $MLX_GRPO_CONFIG, or else the default values."),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Print the resolved configuration.

    The output is TOML; comments show where each value came from.
    """
    with doing("reading the configuration …"):
        from grpo_cli.config.render import show_config

    _print_toml(show_config(_loaded(file, set_)))


@config_app.command(
    cls=GrpoCommand,
    epilog=examples(
        "grpo config init my.toml --from smoke_test",
        "grpo config init > defaults.toml",
    ),
)
def init(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="File to write (default: stdout).")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE|NAME", help="Copy the values from this configuration."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a starting file.

    It lists every key with its description, value and default.
    """
    with doing("reading the schema …"):
        from grpo_cli.config.render import starting_file
        from grpo_cli.config.schema import Config

    config = _loaded(from_, None).config if from_ else Config.model_validate({})
    text = starting_file(config, str(file or "my.toml"))
    if file is None:
        _print_toml(text)
        return
    OutputFile(
        file,
        force=force,
        cannot="Cannot write config file:",
        exists="Config file exists",
        replace=f"`grpo config init {quoted(file)} --force` overwrites it",
        error=ConfigError,
    ).write(text)
    command = f"grpo train --config {quoted(file)}"
    say(stderr_console(), Text(f"✓ wrote {file}; train with `{command}`", style="green"))


def _print_toml(text: str) -> None:
    typer.echo(safe_toml(text).encode(), nl=False)  # TOML is UTF-8, whatever the terminal's encoding


def _loaded(name: str | None, overrides: list[str] | None) -> "LoadedConfig":
    from grpo_cli.config.load import load_config

    loaded = load_config(name, overrides or (), required=False)
    show_warnings(loaded.warnings)
    return loaded


@config_app.command(
    cls=GrpoCommand,
    epilog=examples(
        "grpo config schema > grpo.schema.json",
        "grpo config schema | python -m json.tool --compact",
    ),
)
def schema() -> None:
    """Print the JSON Schema, for editors."""
    with doing("reading the schema …"):
        from grpo_cli.config.render import json_schema

    print_json(json_schema())
