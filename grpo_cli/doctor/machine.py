"""Everything the doctor asks of the machine, in one small layer that tests replace by recorded answers.

    machine = Machine()
    machine.output("sysctl", "-n", "hw.memsize")     # "17179869184", None where there is no such command
    machine.text("/proc/meminfo")                    # the file's text, or None
    machine.version("mlx-lm")                        # "0.32.2", None where it is not installed
    machine.probe()                                  # what MLX does, tried in a process of its own

Answers are what the system says, unread: the checks read them, so that a test of a recorded machine tests
the reading too.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

COMMAND_SECONDS = 5
PROBE_SECONDS = 120
HUB_SECONDS = 3


class Machine:
    """This machine. A recorded one overrides its methods."""

    @property
    def system(self) -> str:
        """`Darwin` or `Linux`."""
        return platform.system()

    @property
    def architecture(self) -> str:
        """Of the Python that runs: `arm64`, `x86_64`, `aarch64`."""
        return platform.machine()

    @property
    def python(self) -> str:
        """Python's version, as `3.12.3`."""
        return platform.python_version()

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables."""
        return os.environ

    @property
    def executable(self) -> str:
        """The Python that runs, for commands to show."""
        return sys.executable

    def output(self, *command: str) -> str | None:
        """What a command prints, stripped; None where it is missing, fails or takes too long."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True, errors="replace"
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    def text(self, path: str) -> str | None:
        """A file's text; None where it cannot be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def which(self, program: str) -> str | None:
        """Where a program is, or None."""
        return shutil.which(program)

    def version(self, package: str) -> str | None:
        """The version of an installed Python package; None where it is not installed."""
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    def free_bytes(self, folder: Path) -> int | None:
        """Free bytes of the disk that a folder is on, or will be; None where that is not known."""
        for place in (folder, *folder.absolute().parents):
            if place.exists():
                try:
                    return shutil.disk_usage(place).free
                except OSError:
                    return None
        return None

    def memory_bytes(self) -> int | None:
        """Physical memory in bytes."""
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            return None

    def reach(self, url: str) -> str:
        """Empty when a web server answers at `url`, else why not."""
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "grpo"})
        try:
            with urllib.request.urlopen(request, timeout=HUB_SECONDS):
                return ""
        except urllib.error.HTTPError:
            return ""  # it answers, if only to refuse this page
        except (OSError, ValueError) as error:  # URLError is an OSError; ValueError: no address at all
            return str(getattr(error, "reason", error))

    def probe(self) -> dict[str, Any]:
        """What MLX and mlx-lm do here, tried in another process (probe.py): a crash there is an answer.

        `failed` names the stage that was not survived, `error` what it said.
        """
        command = [sys.executable, "-m", "grpo_cli.doctor.probe"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"failed": "start", "error": str(error)}
        answers: dict[str, Any] = {}
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                answers |= json.loads(line)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            died = f"killed by signal {-done.returncode}" if done.returncode < 0 else last
            answers |= {"failed": answers.get("stage", "start"), "error": answers.get("error") or died}
        return answers
