"""The last error of any command, kept in the user's folder for bug reports.

keep_last_error(error)      # when a command fails
last_error()                # in `grpo doctor --report`
"""

import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import typer

from grpo_cli.files import written

LARGEST = 20_000  # characters kept from the end: a traceback's last lines matter most


def error_file() -> Path:
    """Path of the file that keeps the error, in the system's folder for application data."""
    return Path(typer.get_app_dir("grpo")) / "last_error.txt"


def keep_last_error(error: BaseException) -> None:
    """Save the command and the error's traceback. A failure to write must not hide the error."""
    command = " ".join(["grpo", *sys.argv[1:]])
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    text = "".join(traceback.format_exception(error))[-LARGEST:]
    with suppress(OSError):
        error_file().parent.mkdir(parents=True, exist_ok=True)
        with written(error_file()) as name:
            name.chmod(0o600)  # the command line may contain secrets
            name.write_text(f"{when}\n{command}\n\n{text}", encoding="utf-8", errors="replace")


def last_error() -> str:
    """The text of the last saved error; empty if there is none."""
    try:
        return error_file().read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
