"""The program run in this process."""

from typer.testing import CliRunner, Result

from grpo_cli.cli.main import app


def grpo(*words: str, stdin: str | None = None) -> Result:
    """The result of `grpo` with these words."""
    return CliRunner().invoke(app, list(words), input=stdin, prog_name="grpo")
