"""Error output and exit codes.

A GrpoError prints its message, a blank line, its hint and the guide's chapter for it on stderr,
without a traceback. A part of MLX that cannot be imported is reported in the same way. Anything else is a bug
and keeps its traceback. The last error is stored for `grpo doctor --report`.
"""

import sys
from typing import Any

from rich.text import Text
from typer import Exit
from typer.core import TyperGroup

from grpo_cli.cli.terminal import say, stderr_console
from grpo_cli.doctor.last_error import keep_last_error
from grpo_cli.errors import GrpoError
from grpo_cli.foreign_text import guarded_output, visible

INTERRUPTED = 130

# Import name of a required package → its requirement for pip.
_REQUIREMENTS = {
    "mlx": "mlx>=0.32.2",
    "mlx_lm": "mlx-lm>=0.32.2",
    "datasets": "datasets",
    "huggingface_hub": "huggingface-hub",
    "numpy": "numpy",
    "safetensors": "mlx-lm>=0.32.2",
    "tiktoken": "tiktoken",
    "tokenizers": "tokenizers",
    "transformers": "mlx-lm>=0.32.2",
}


class GrpoGroup(TyperGroup):
    """The command group that turns failures into messages and exit codes."""

    def main(self, *words: Any, **options: Any) -> Any:
        """Run with both streams guarded: click's own messages may quote foreign file names."""
        with guarded_output():
            return super().main(*words, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Reports a failure and raises Exit with its code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            show_interruption(error)
            raise Exit(INTERRUPTED) from None
        except GrpoError as error:
            if ctx.invoked_subcommand != "doctor":  # its own errors must not replace the one it reports
                keep_last_error(error)
            show_error(error)
            raise Exit(error.exit_code) from None
        except EOFError as error:  # typer would only print "Aborted!"
            ours = RuntimeError(f"{type(error).__name__}: {error}")
            copy_notes(error, ours)
            raise ours from error
        except ImportError as error:
            keep_last_error(error)
            known = broken_installation(error)
            if known is None:
                raise
            copy_notes(error, known)
            show_error(known)
            raise Exit(known.exit_code) from None


def show_error(error: GrpoError) -> None:
    """Print the message, a blank line, the hint and the chapter that explains it, on stderr.

    If the error is in user code, its traceback stands between message and hint. The exception's notes come
    last: the saved state of a run and the command that resumes it.
    """
    text = Text(visible(error.message))
    text.append("\n")
    if error.trace:
        text.append(f"\n{visible(error.trace)}\n", style="dim")
    if error.hint:
        text.append("\nhint:", style="bold cyan")
        text.append(f" {visible(error.hint)}")
    if error.trouble:
        text.append("\nmore:", style="bold cyan")
        text.append(f" `grpo doctor --explain {error.trouble}`")
    say(stderr_console(), text)
    if notes := notes_of(error):
        say(stderr_console(), Text(f"\n{notes}"))


def show_interruption(error: KeyboardInterrupt) -> None:
    """Print what was interrupted and, if it can be resumed, what is saved of it."""
    notes = notes_of(error)
    if notes or str(error):
        say(stderr_console(), Text(f"{visible(str(error)) or 'Interrupted.'}\n{notes}".rstrip()))


def notes_of(error: BaseException) -> str:
    """The exception's notes, one per line."""
    return visible("\n".join(getattr(error, "__notes__", ())))


def copy_notes(error: BaseException, shown: BaseException) -> None:
    """Copy an exception's notes to the one shown instead."""
    for note in getattr(error, "__notes__", ()):
        shown.add_note(note)


def broken_installation(error: ImportError) -> GrpoError | None:
    """The error for a package of ours that is missing or has no backend; None for any other import error."""
    package = (error.name or "").partition(".")[0]
    if "libmlx" in str(error) or (package == "mlx" and sys.platform == "linux"):
        hint = "MLX has no backend here: `pip install 'grpo-cli[cpu]'`, or `[cuda13]` with an NVIDIA card"
        trouble = "mlx-backend"
    elif package in _REQUIREMENTS:
        hint = f"`{sys.executable} -m pip install --upgrade '{_REQUIREMENTS[package]}'`"
        trouble = "mlx-lm" if package in ("mlx_lm", "safetensors", "transformers") else "packages"
    else:
        return None
    return GrpoError(f"{type(error).__name__}: {error}", hint, trouble=trouble)
