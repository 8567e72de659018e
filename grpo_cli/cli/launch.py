"""`grpo launch`: run another command on several ranks, with MLX's launcher, and end with their exit code.

    grpo launch -n 2 -- train --config prod          # mlx.launch -n 2 -- python -m grpo_cli train …

MLX's launcher itself exits with 0 even if ranks fail, and with a traceback on Ctrl-C. So its output lines
about the end of each rank are parsed here.
"""

import codecs
import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Annotated, TextIO

import typer

from grpo_cli.cli.doing import doing
from grpo_cli.cli.errors import INTERRUPTED
from grpo_cli.cli.terminal import encodable
from grpo_cli.errors import ConfigError, TrainingError
from grpo_cli.files import chosen_path, from_here
from grpo_cli.words import plural

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_SECONDS = 300.0  # seconds for the others to save and exit after a rank failed; then they count as hung
READING = 15.0  # seconds to read the last lines of a launcher that has exited
UNREACHED = 255  # ssh's exit code if it cannot reach a host
ENDED = re.compile(rb"Node with rank (\d+) exited with code (-?\d+)")


def launch(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND", help="Command that each rank runs: train or resume, with its options."
        ),
    ],
    ranks: Annotated[
        int,
        typer.Option(
            "-n", "--ranks", metavar="N", min=1, max=1024, help="Ranks on this machine, or on each host."
        ),
    ] = 1,
    hostfile: Annotated[
        Path | None,
        typer.Option("--hostfile", metavar="FILE", help="Host file in `mlx.launch`'s format."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="NAME", help="ring, jaccl or nccl (default: chosen by MLX)."),
    ] = None,
    starting_port: Annotated[
        int,
        typer.Option(
            "--starting-port", metavar="N", min=1024, max=64000, help="First port that the ranks use."
        ),
    ] = 32323,
    python: Annotated[
        str | None,
        typer.Option(
            "--python", metavar="PATH", help="Path of Python on every machine (default: this one's path)."
        ),
    ] = None,
) -> None:
    """Run a command on several ranks.

    The ranks run on this machine or on others; the exit code is that of the first failure.
    """
    hostfile = hostfile and from_here(chosen_path(hostfile))
    with contextlib.ExitStack() as silence:
        silence.enter_context(doing(f"starting {command[0]} on {hostfile or plural(ranks, 'rank')} …"))
        from grpo_cli.distributed.hosts import read_hosts

        hosts = [host.ssh for host in read_hosts(hostfile).hosts] if hostfile else []
        where = ["--hostfile", str(hostfile)] if hostfile else ["-n", str(ranks)]
        how = ["--backend", backend] if backend else []
        words = [
            launcher(), *where, *how, "--starting-port", str(starting_port), "--",
            python or sys.executable, "-P", "-m", "grpo_cli", *command,  # -P: no module of this folder
        ]  # fmt: skip
        launched = Launch(words, silence)
        code = launched.run()
    if hosts and UNREACHED in launched.failures.values():
        ended = launched.failures.items()
        raise unreached([hosts[rank] for rank, code in ended if code == UNREACHED])
    if code:
        raise typer.Exit(code)


def unreached(hosts: list[str]) -> TrainingError:
    """The error for hosts on which ssh could not start a rank."""
    return TrainingError(
        f"Cannot reach hosts by ssh: {', '.join(hosts)}",
        "`grpo doctor --hosts FILE` says what is wrong; `ssh HOST true` must finish without asking anything",
        trouble="hosts",
    )


def launcher() -> str:
    """MLX's launcher next to this Python. Raises ConfigError if it does not exist."""
    beside = Path(sys.executable).parent / "mlx.launch"
    found = str(beside) if beside.is_file() else shutil.which("mlx.launch")
    if found is None:
        raise ConfigError(
            f"mlx.launch not found next to {sys.executable}",
            "it comes with mlx: `pip install 'mlx>=0.32.2'`",
            trouble="several-machines",
        )
    return found


class Launch:
    """A running MLX launcher and the exit codes of its ranks."""

    def __init__(self, words: list[str], silence: contextlib.ExitStack | None = None) -> None:
        from grpo_cli.distributed.topology import LAUNCHER

        # Its own session: Ctrl-C is for the ranks, which save first; the launcher would abandon them.
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,  # kept open: the launcher busy-waits on a closed one
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, LAUNCHER: str(os.getpid())},
            start_new_session=True,
        )
        self.silence = silence or contextlib.ExitStack()  # ends when the first rank prints something
        self.failures: dict[int, int] = {}  # exit codes by rank, in order of arrival
        self.is_interrupted = False

    def run(self) -> int:
        """Wait for the end. Returns the exit code: 0, that of the first rank that failed, or 130."""
        pipes = [(self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr)]
        readers = [threading.Thread(target=self._relay, args=pair, daemon=True) for pair in pipes]
        for reader in readers:
            reader.start()
        signals = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
        before = {number: signal.signal(number, self._interrupt) for number in signals}
        try:
            code = self._wait()
            for reader in readers:
                reader.join(READING)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        failed = next((exit_code(failure) for failure in self.failures.values()), code)
        return INTERRUPTED if failed and self.is_interrupted else failed

    def _wait(self) -> int:
        """The launcher's exit code. It waits forever for a stopped rank, so all are killed then."""
        deadline = None
        while (code := self.process.poll()) is None:
            time.sleep(0.1)
            if self.failures and deadline is None:
                deadline = time.monotonic() + EXIT_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                os.killpg(self.process.pid, signal.SIGKILL)
                deadline = time.monotonic() + EXIT_SECONDS
        return code

    def _relay(self, stream: IO[bytes], to: TextIO) -> None:
        """Pass on the output of launcher and ranks as it comes, and record how ranks ended.

        Other machines add their own output, such as a shell's greeting: `to` is guarded (foreign_text.py).
        """
        line = b""
        decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder("utf-8")("replace"), translate=True
        )
        while data := os.read(stream.fileno(), 8192):
            with contextlib.suppress(OSError):  # the terminal is gone: the ranks still save
                self.silence.close()
                to.write(encodable(decoder.decode(data), to.encoding))
                to.flush()
            *whole, line = (line + data).split(b"\n")
            for found in (match for text in whole for match in ENDED.finditer(text)):
                if int(found[2]):
                    self.failures[int(found[1])] = int(found[2])

    def _interrupt(self, *_: object) -> None:
        """Interrupt the ranks: local ones by a signal, remote ones by Ctrl-C on their terminal."""
        self.is_interrupted = True
        for pid in children(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.write(b"\x03")
                self.process.stdin.flush()


def exit_code(code: int) -> int:
    """A process's exit code as shells show it: 137 for SIGKILL."""
    return 128 - code if code < 0 else code


def children(pid: int) -> list[int]:
    """The child processes of a process: from /proc on Linux, from ps elsewhere."""
    processes = Path("/proc")
    if (processes / "self" / "stat").exists():
        pairs = []
        for entry in processes.iterdir():
            with contextlib.suppress(OSError):  # it has just exited
                if entry.name.isdecimal():
                    # number (name) state parent …; a name may contain anything, even brackets
                    parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
                    pairs.append((int(entry.name), int(parent)))
    else:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
        pairs = [(int(one), int(parent)) for one, parent in map(str.split, listed.stdout.splitlines())]
    return [one for one, parent in pairs if parent == pid]
