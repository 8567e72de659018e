"""The last error of any command, kept in the user's folder so that a bug report can hold it.

keep_last_error(error)      # written where a command fails
last_error()                # read by `grpo doctor --report`
"""

import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import typer

from grpo_cli.files import written

LARGEST = 20_000  # characters kept, from the end: a traceback's last lines say most


def error_file() -> Path:
    """Where it is kept: the folder that the system has for a program's own files."""
    return Path(typer.get_app_dir("grpo")) / "last_error.txt"


def keep_last_error(error: BaseException) -> None:
    """Write the command and the traceback of an error. A disk that refuses it must not hide the error."""
    command = " ".join(["grpo", *sys.argv[1:]])
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    text = "".join(traceback.format_exception(error))[-LARGEST:]
    with suppress(OSError):
        error_file().parent.mkdir(parents=True, exist_ok=True)
        with written(error_file()) as name:
            name.chmod(0o600)  # it holds the command as it was typed
            name.write_text(f"{when}\n{command}\n\n{text}", encoding="utf-8", errors="replace")


def last_error() -> str:
    """What was written last, or nothing."""
    try:
        return error_file().read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
