"""`grpo report`: a run, or several side by side, as one HTML page."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from grpo_cli.cli.doing import doing
from grpo_cli.cli.output_file import OutputFile
from grpo_cli.cli.terminal import say, stderr_console
from grpo_cli.errors import ConfigError
from grpo_cli.files import chosen_path, from_here

MOST_RUNS = 8  # curves that can be told apart


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of runs; several are compared.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE.html",
            help="Default: report.html in the run's folder; with several runs, in the current folder.",
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a run as one HTML page.

    The page needs no server and no network: curves, completions, findings of the doctor, configuration.
    """
    with doing("reading the run …"):
        from grpo_cli.report.make import make_page
        from grpo_cli.report.page import PAGE
        from grpo_cli.report.read import read_run, run_folder

    if len(runs) > MOST_RUNS:
        raise ConfigError(
            f"{len(runs)} runs are too many for one page",
            f"name at most {MOST_RUNS} runs, whose curves can be told apart",
        )
    with doing("reading the run …"):
        records = [read_run(run_folder(from_here(chosen_path(path)))) for path in runs]
        if output is None:
            output = Path(PAGE) if len(records) > 1 else records[0].folder / PAGE
            if output.is_symlink():  # in a received folder it may lead anywhere: replaced, never followed
                output.unlink()
        file = page_file(output, force)
        text = make_page(records)
    file.write(text)
    typer.echo(from_here(file.path))
    if open_ and not webbrowser.open(file.path.as_uri()):
        say(stderr_console(), Text("note: no browser was found: open the page by hand", style="yellow"))


def page_file(named: Path, force: bool = False) -> OutputFile:
    """The file of a page; an earlier page may be replaced. Raises ConfigError for any other file."""
    from grpo_cli.report.page import is_page

    return OutputFile(named, force=force, cannot="Cannot write the page", is_earlier=is_page)
