"""Everything the doctor asks of the machine, in one small layer that tests replace with recorded answers.

    machine = Machine()
    machine.output("sysctl", "-n", "hw.memsize")     # "17179869184"; None if there is no such command
    machine.text("/proc/meminfo")                    # the file's text, or None
    machine.version("mlx-lm")                        # "0.32.2"; None if it is not installed
    machine.attempt("ssh", "mac2", "true", seconds=60)     # Attempt(code=255, complaint="…")
    machine.probe()                                  # MLX's abilities, tried in a process of its own

Answers are the system's raw text. The checks parse them, so a test with a recorded machine tests the parsing
too.
"""

import contextlib
import http.client
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from grpo_cli.engine.host.system import System

PROBE_SECONDS = 120
HUB_SECONDS = 3
ROOT = str(Path(__file__).parents[3])  # where the package is imported from


@dataclass(frozen=True)
class Attempt:
    """Result of a command. Exit code None: stopped at its time limit; 127: no such command."""

    code: int | None
    output: str = ""
    complaint: str = ""  # stderr


class Machine(System):
    """This machine. A recorded one overrides its methods."""

    @property
    def architecture(self) -> str:
        """Architecture of the running Python: `arm64`, `x86_64`, `aarch64`."""
        return platform.machine()

    @property
    def python(self) -> str:
        """Python's version, as `3.12.3`."""
        return platform.python_version()

    @property
    def libc(self) -> str:
        """The C library, as `glibc 2.36`; empty for another one, and on a Mac."""
        try:
            return os.confstr("CS_GNU_LIBC_VERSION") or ""
        except (ValueError, OSError):
            return ""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables."""
        return os.environ

    @property
    def executable(self) -> str:
        """Path of the running Python."""
        return sys.executable

    def attempt(self, *command: str, seconds: float) -> Attempt:
        """Run a command that may be slow or hang. After `seconds`, or at its end, its group is killed."""
        # Files, not pipes: programs that stay behind, such as ssh's shared connections, keep pipes open.
        # stdin stays open: `mlx.launch` takes a whole core if it is closed.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaint, open_stdin() as stdin:
            try:
                process = subprocess.Popen(
                    command, stdin=stdin, stdout=output, stderr=complaint, start_new_session=True
                )
            except OSError as error:
                return Attempt(127, complaint=f"{command[0]}: {error.strerror}")
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_group(process)
            output.seek(0)
            complaint.seek(0)
            return Attempt(
                code, output.read().decode(errors="replace"), complaint.read().decode(errors="replace")
            )

    def which(self, program: str) -> str | None:
        """Path of a program, or None."""
        return shutil.which(program)

    def version(self, package: str) -> str | None:
        """Version of an installed Python package; None if it is not installed."""
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    def requirements(self, package: str) -> list[str]:
        """Requirements of an installed package, such as `mlx>=0.32.2`; empty if it is not installed."""
        try:
            return metadata.requires(package) or []
        except metadata.PackageNotFoundError:
            return []

    def refusal(self, folder: Path) -> str:
        """The reason that a folder cannot be written, tested with a temporary file; empty if it can.

        If the folder does not exist, its nearest existing parent is tested.
        """
        try:
            place = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
            if not place.is_dir():
                return f"{place} is not a folder"
            with tempfile.NamedTemporaryFile(dir=place, prefix=".grpo-doctor-") as file:
                file.write(bytes(4096))
                file.flush()
        except OSError as error:
            return f"{error.strerror or error}"
        except ValueError as error:  # a NUL in its name
            return str(error)
        return ""

    def free_bytes(self, folder: Path) -> int | None:
        """Free bytes on the disk of a folder, which need not exist yet; None if unknown."""
        try:
            place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
            return shutil.disk_usage(place).free
        except (OSError, ValueError):  # no permission; a NUL in its name
            return None

    def memory_bytes(self) -> int | None:
        """Physical memory in bytes; None if unknown."""
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            return None

    def reach(self, url: str) -> str:
        """Empty if a web server answers at `url`, else the reason that none does."""
        if not url.startswith(("http://", "https://")):
            return "it is not a web address"
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "grpo"})
            with urllib.request.urlopen(request, timeout=HUB_SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            # Any answer of the server's own counts, even a refusal, but not a proxy's or a server error.
            return f"HTTP {error.code}" if error.code >= 500 or error.code == 407 else ""
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: no address at all
            return str(getattr(error, "reason", error) or type(error).__name__)

    def probe(self) -> dict[str, Any]:
        """Answers of probe.py on MLX and mlx-lm, run in another process so that a crash is an answer too.

        `failed` names the stage that failed, `error` holds its message.
        """
        # Not with -m, which would import modules from the current folder first: a user's random.py.
        code = f"import sys; sys.path.append({ROOT!r}); from grpo_cli.doctor.read.probe import main; main()"
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", code],
                capture_output=True,
                timeout=PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            answers = answers_in(error.stdout or b"")
            return answers | {
                "failed": answers.get("stage", "start"),
                "error": f"not finished after {PROBE_SECONDS} s",
            }
        except OSError as error:
            return {"failed": "start", "error": str(error)}
        return judged(answers_in(done.stdout), done.returncode, done.stderr.decode(errors="replace"))


@contextmanager
def open_stdin() -> Iterator[int]:
    """The reading end of a pipe that stays open and carries nothing."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of a process group, given its leader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers_in(output: bytes) -> dict[str, Any]:
    """The probe's answers, without other lines that libraries printed."""
    answers: dict[str, Any] = {}
    for line in output.decode(errors="replace").splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            answers |= found
    return answers


def judged(answers: dict[str, Any], code: int, complaint: str) -> dict[str, Any]:
    """The answers, with `failed` and `error` added if the process failed."""
    if code == 0:
        return answers
    last = (complaint.strip().splitlines() or [f"ended with {code}"])[-1]
    died = f"killed by signal {-code} ({signal_name(-code)})" if code < 0 else last
    return answers | {"failed": answers.get("stage", "start"), "error": answers.get("error") or died}


def signal_name(number: int) -> str:
    """`SIGILL` for 4."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
