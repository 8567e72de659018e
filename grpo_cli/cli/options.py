"""Options shared by several commands: the configuration, `--set`, and shortcuts for common keys."""

from typing import Annotated

import typer


def shipped(incomplete: str) -> list[str]:
    """Names of shipped configurations with this prefix, for shell completion."""
    from grpo_cli.config.resolve import shipped_names

    return [name for name in shipped_names() if name.startswith(incomplete)]


ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE|NAME",
        help="A file, or the name of a shipped configuration (prod).",
        autocompletion=shipped,
    ),
]
ConfigArgument = Annotated[
    str | None,
    typer.Argument(metavar="CONFIG", help="The same as --config.", autocompletion=shipped),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key; may be repeated."),
]
ModelKey = Annotated[
    str | None, typer.Option("--model", metavar="DIR|REPO|tiny", help="Short for --set model_name=…")
]
DatasetKey = Annotated[
    str | None, typer.Option("--dataset", metavar="FILE|DIR|REPO", help="Short for --set dataset=…")
]
OutputDirKey = Annotated[
    str | None, typer.Option("--output-dir", metavar="DIR", help="Short for --set output_dir=…")
]
RunNameKey = Annotated[
    str | None, typer.Option("--run-name", metavar="NAME", help="Short for --set run_name=…")
]
MaxStepsKey = Annotated[
    int | None, typer.Option("--max-steps", metavar="N", help="Short for --set max_steps=…")
]
SeedKey = Annotated[int | None, typer.Option("--seed", metavar="N", help="Short for --set seed=…")]


def given(**options: object) -> list[str]:
    """The given options as `--set` texts: KEY=VALUE."""
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def one_of(by_option: str | None, by_position: str | None, option: str) -> str | None:
    """A value that can be given in two ways. Raises a usage error if they differ."""
    if by_option is not None and by_position is not None and by_option != by_position:
        raise typer.BadParameter(f"{by_position!r} and {option} {by_option!r}: give one of them")
    return by_option if by_option is not None else by_position
