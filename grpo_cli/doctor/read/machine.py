"""Everything the doctor asks of the machine, in one small layer that tests replace by recorded answers.

    machine = Machine()
    machine.output("sysctl", "-n", "hw.memsize")     # "17179869184", None where there is no such command
    machine.text("/proc/meminfo")                    # the file's text, or None
    machine.version("mlx-lm")                        # "0.32.2", None where it is not installed
    machine.attempt("ssh", "mac2", "true", seconds=60)     # Attempt(code=255, complaint="…")
    machine.probe()                                  # what MLX does, tried in a process of its own

Answers are what the system says, unread: the checks read them, so that a test of a recorded machine tests
the reading too.
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

COMMAND_SECONDS = 5
PROBE_SECONDS = 120
HUB_SECONDS = 3
ROOT = str(Path(__file__).parents[3])  # where the package is imported from


@dataclass(frozen=True)
class Attempt:
    """How a command went: its code (None: it was ended after its time; 127: there is none of its name)."""

    code: int | None
    output: str = ""
    complaint: str = ""  # what it wrote to stderr


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

    def attempt(self, *command: str, seconds: float) -> Attempt:
        """Run a command that may take long or hang; what it started ends with it when its time is over."""
        # Files, not pipes: a program that stays behind, as ssh's shared connections do, keeps pipes open.
        # And an open stdin: `mlx.launch` takes a whole core where its own is closed.
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

    def requirements(self, package: str) -> list[str]:
        """What an installed package says it needs, as `mlx>=0.32.2`; empty where it is not installed."""
        try:
            return metadata.requires(package) or []
        except metadata.PackageNotFoundError:
            return []

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where it cannot be read."""
        try:
            return sorted(os.listdir(folder))  # noqa: PTH208 (names are wanted, not paths)
        except OSError:
            return []

    def refusal(self, folder: Path) -> str:
        """Why no file can be written in a folder, tried with one that is gone at once; empty: it can be.

        For a folder that is not there yet, the nearest one above it is tried: it would be made in there.
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
        """Free bytes of the disk that a folder is on, or will be; None where that is not known."""
        try:
            place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
            return shutil.disk_usage(place).free
        except (OSError, ValueError):  # no permission; a NUL in its name
            return None

    def memory_bytes(self) -> int | None:
        """Physical memory in bytes."""
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            return None

    def reach(self, url: str) -> str:
        """Empty when a web server answers at `url`, else why not."""
        if not url.startswith(("http://", "https://")):
            return "it is no web address"
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "grpo"})
            with urllib.request.urlopen(request, timeout=HUB_SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            # An answer of its own will do, if only to refuse this page; a proxy's or a broken one's not.
            return f"HTTP {error.code}" if error.code >= 500 or error.code == 407 else ""
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: no address at all
            return str(getattr(error, "reason", error) or type(error).__name__)

    def probe(self) -> dict[str, Any]:
        """What MLX and mlx-lm do here, tried in another process (probe.py): a crash there is an answer.

        `failed` names the stage that was not survived, `error` what it said.
        """
        # Not with -m, which would look for modules in the current folder first: a person's own random.py.
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
                "error": f"no end in {PROBE_SECONDS} s",
            }
        except OSError as error:
            return {"failed": "start", "error": str(error)}
        return judged(answers_in(done.stdout), done.returncode, done.stderr.decode(errors="replace"))


@contextmanager
def open_stdin() -> Iterator[int]:
    """The end to read from of a pipe that nothing comes through and that stays open."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of a process that leads its own group, and of what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers_in(output: bytes) -> dict[str, Any]:
    """The probe's answers among whatever else libraries printed."""
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
    """The answers with `failed` and `error` where the process did not end well."""
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
