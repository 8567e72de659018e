"""The `grpo` command: its sub-commands, its version and its entry point.

Fast start: every sub-command imports the engine inside its function, so that `grpo --help` answers at
once. To add a command, write its file in this folder and register it below.
"""

import errno
import io
import os
import sys
from typing import Annotated

import typer

from grpo_cli.cli.config import config_app
from grpo_cli.cli.convert import convert
from grpo_cli.cli.doctor import doctor
from grpo_cli.cli.env import env_app
from grpo_cli.cli.errors import INTERRUPTED, GrpoGroup, copy_notes, show_error, show_interruption
from grpo_cli.cli.eval import evaluate
from grpo_cli.cli.generate import generate
from grpo_cli.cli.help import GrpoCommand, examples
from grpo_cli.cli.launch import launch
from grpo_cli.cli.report import report
from grpo_cli.cli.resume import resume
from grpo_cli.cli.runs import runs
from grpo_cli.cli.train import train
from grpo_cli.doctor.last_error import keep_last_error
from grpo_cli.ended import ended_by_signals
from grpo_cli.errors import GrpoError
from grpo_cli.foreign_text import guard_output

# Errors of an output that is full, or was closed from the start.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)
REFUSED_OUTPUT = "write the output somewhere else, or free some space there"

app = typer.Typer(
    name="grpo",
    cls=GrpoGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # our own bugs keep Python's traceback
    rich_markup_mode=None,  # typer's panels take longer to import than everything else in `--help`
    epilog=examples(
        "grpo train --config smoke_test.toml",
        "grpo eval --model outputs/smoke_test/final --config smoke_test.toml",
    ),
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("grpo-cli")
    except PackageNotFoundError:  # run from a source tree that was never installed
        installed = "unknown"
    typer.echo(f"grpo {installed}")
    raise typer.Exit


@app.callback()
def grpo(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune a language model by GRPO reinforcement learning on MLX."""


app.command(
    "train",
    cls=GrpoCommand,
    epilog=examples(
        "grpo train --config smoke_test.toml",
        "grpo train --config prod --set learning_rate=5e-6 --set seed=1",
    ),
)(train)
app.command(
    "resume",
    cls=GrpoCommand,
    epilog=examples(
        "grpo resume outputs/prod",
        "grpo resume outputs/prod/checkpoint-200 --set max_steps=400",
    ),
)(resume)
app.command(
    "launch",
    cls=GrpoCommand,
    context_settings={"allow_interspersed_args": False},
    epilog=examples(
        "grpo launch -n 2 train --config smoke_test.toml",
        "grpo launch --hostfile hosts.json resume outputs/prod",
    ),
)(launch)
app.command(
    "eval",
    cls=GrpoCommand,
    epilog=examples(
        "grpo eval --model outputs/smoke_test/final --config smoke_test.toml",
        "grpo eval --model outputs/prod/final --compare Qwen/Qwen2.5-1.5B-Instruct --config prod",
    ),
)(evaluate)
app.command(
    "convert",
    cls=GrpoCommand,
    epilog=examples(
        "grpo convert nanochat-d32 --dtype bfloat16",
        "grpo convert --to nanochat outputs/nanochat_grpo/final",
    ),
)(convert)
app.command(
    "generate",
    cls=GrpoCommand,
    epilog=examples(
        'grpo generate --model tiny --prompt "What is 12 + 30?"',
        "grpo generate --model outputs/prod/final --chat",
    ),
)(generate)
app.command(
    "doctor",
    cls=GrpoCommand,
    epilog=examples(
        "grpo doctor --config prod",
        "grpo doctor --run outputs/prod --report bug.md",
    ),
)(doctor)
app.command(
    "runs",
    cls=GrpoCommand,
    epilog=examples(
        "grpo runs outputs --sort accuracy",
        "grpo runs outputs --clean --state failed",
    ),
)(runs)
app.command(
    "report",
    cls=GrpoCommand,
    epilog=examples(
        "grpo report outputs/prod --open",
        "grpo report outputs/prod outputs/prod_lora --output comparison.html",
    ),
)(report)
app.add_typer(config_app, name="config")
app.add_typer(env_app, name="env")


class ClosedStream(io.TextIOBase):
    """Replacement for a closed standard output (`>&-`): Python sets it to None, and results would vanish."""

    def write(self, _text: str) -> int:
        """Raise the system's error."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def run() -> None:
    """Entry point of the `grpo` script.

    Exit codes: 0 done, 1 failed, 2 usage or an invalid configuration, 130 interrupted.
    """
    for size in ("COLUMNS", "LINES"):
        if os.environ.get(size) == "0":  # a terminal that reports size 0; rich would print nothing
            del os.environ[size]
    guard_output()  # until the very end: a traceback also quotes foreign text
    if sys.stdout is None:
        sys.stdout = ClosedStream()
    try:
        with ended_by_signals():
            app(prog_name="grpo")
    except KeyboardInterrupt as error:  # before or after the command itself
        show_interruption(error)
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename:
            raise
        unwritten = GrpoError(f"{error.strerror}: the output could not be written", REFUSED_OUTPUT)
        copy_notes(error, unwritten)
        show_error(unwritten)
        sys.exit(unwritten.exit_code)
    except Exception as error:  # a bug in this program
        keep_last_error(error)
        raise
