"""The machine's own answers, as raw text: commands and small system files.

    System().output("pmset", "-g", "batt")      # "Now drawing from 'AC Power' …"; None: no answer

A recorded machine overrides the methods, so that the parsing is tested, too.
"""

import os
import platform
import subprocess
from pathlib import Path

COMMAND_SECONDS = 5


class System:
    """This machine's system."""

    @property
    def system(self) -> str:
        """`Darwin` or `Linux`."""
        return platform.system()

    def output(self, *command: str) -> str | None:
        """A command's stdout, stripped; None if it is missing, fails or takes over COMMAND_SECONDS."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True, errors="replace"
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    def text(self, path: str) -> str | None:
        """A file's text; None if it cannot be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; empty if it cannot be read."""
        try:
            return sorted(os.listdir(folder))  # noqa: PTH208 (names are wanted, not paths)
        except OSError:
            return []
