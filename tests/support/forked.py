"""Processes of their own that start at once: forked from one that has imported what a run imports.

process = start(["-m", "grpo_cli", "train", "--config", "smoke_test"], cwd=folder, stderr=PIPE)
process.send_signal(signal.SIGINT)
_, stderr = process.communicate()

To import transformers and MLX takes 2 to 4 seconds of a core. Here a server imports them once for each
worker of pytest; it runs nothing of MLX, so that there are no threads to lose in the fork. Not for what
is read at import: a test of another hub or of another device starts Python anew.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import IO, Any

from grpo_cli.device import prepare
from tests.support.waiting import HANG

ROOT = Path(__file__).parents[2]
NOTHING = Path(os.devnull)
Output = int | IO[Any] | None


class Process:
    """`python WORDS` as `subprocess.Popen` would start it, with texts for pipes."""

    def __init__(
        self,
        words: list[str],
        cwd: str | Path | None = None,
        env: dict[str, str] | None = None,
        stdout: Output = None,
        stderr: Output = None,
    ) -> None:
        self.returncode: int | None = None
        self._texts = ["", ""]
        self._readers: list[threading.Thread] = []
        request = {"words": words, "cwd": str(cwd or Path.cwd()), "env": env or dict(os.environ)}
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as ours:
            ends = [ours.enter_context(NOTHING.open()).fileno()]
            ends += [self._end(place, given, ours) for place, given in enumerate((stdout, stderr))]
            ends.append(ours.enter_context(theirs).fileno())
            socket.send_fds(server(), [json.dumps(request).encode()], ends)
        self.pid = int(self._link.recv(32))

    def _end(self, place: int, given: Output, ours: contextlib.ExitStack) -> int:
        """The descriptor of stdout (0) or stderr (1) for the process."""
        if given is None:
            return place + 1
        if given == DEVNULL:
            return ours.enter_context(NOTHING.open("w")).fileno()
        if given != PIPE:
            return given if isinstance(given, int) else given.fileno()
        reading, writing = os.pipe()
        ours.callback(os.close, writing)

        def read() -> None:
            with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
                self._texts[place] = pipe.read()

        self._readers.append(threading.Thread(target=read, daemon=True))
        self._readers[-1].start()
        return writing

    def poll(self) -> int | None:
        """The exit code as `subprocess` has it, None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.001)
        return self.returncode

    def wait(self, timeout: float = HANG) -> int:
        """The exit code. subprocess.TimeoutExpired where the process has not ended in time."""
        if self.returncode is None:
            self._link.settimeout(timeout)
            try:
                self.returncode = int(self._link.recv(32))
            except TimeoutError as error:
                raise subprocess.TimeoutExpired("python", timeout) from error
            self._link.close()
        return self.returncode

    def communicate(self, timeout: float = HANG) -> tuple[str, str]:
        """Wait for the end; what came through the pipes."""
        self.wait(timeout)
        for reader in self._readers:
            reader.join()
        return self._texts[0], self._texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Running = Process | subprocess.Popen[str]


def start(words: list[str], **settings: Any) -> Running:
    """`python WORDS`, forked where MLX computes on a Linux CPU: Metal and CUDA do not survive a fork."""
    if sys.platform == "linux" and prepare().kind == "cpu":
        return Process(words, **settings)
    return subprocess.Popen([sys.executable, *words], text=True, **settings)


def run(words: list[str], **settings: Any) -> "subprocess.CompletedProcess[str]":
    """`subprocess.run` with both outputs captured, for `python WORDS`."""
    process = start(words, stdout=PIPE, stderr=PIPE, **settings)
    stdout, stderr = process.communicate(timeout=HANG)
    return subprocess.CompletedProcess(words, process.wait(), stdout, stderr)


@functools.cache
def server() -> socket.socket:
    """The server's end of a connection; it ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- in the server --------------------------------------------------------------------------------------


def serve(control: socket.socket) -> list[str]:
    """Fork for each request; in a forked process, return its words."""
    while True:
        message, ends, _, _ = socket.recv_fds(control, 1 << 20, 4)
        with contextlib.suppress(ChildProcessError):  # there is none
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        if not message:
            os._exit(0)
        if not os.fork():
            control.close()
            return keep(json.loads(message), ends)
        for end in ends:
            os.close(end)


def keep(request: dict[str, Any], ends: list[int]) -> list[str]:
    """Fork the process and tell its id and, at its end, its exit code; in the process, return its words."""
    *standard, link = ends
    pid = os.fork()
    if pid:
        for end in (0, 1, 2, *standard):
            os.close(end)
        os.setpgid(0, 0)  # a Ctrl-C is for the process
        os.write(link, str(pid).encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(OSError):  # nobody waits any more
            os.write(link, str(code).encode())
        os._exit(0)
    os.close(link)
    for place, end in enumerate(standard):
        os.dup2(end, place)
        os.close(end)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    return request["words"]


def become(words: list[str]) -> None:
    """Run `python WORDS` in this process."""
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    kind, program, *arguments = words
    sys.argv = [kind, *arguments]
    if kind == "-m":
        sys.path[0] = str(Path.cwd())
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    import mlx_lm  # noqa: F401

    import grpo_cli.cli.main
    import grpo_cli.engine.setup
    import grpo_cli.engine.train  # noqa: F401

    gc.freeze()  # what was imported is neither searched nor copied in the forked processes
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a thread would be lost in a fork"
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
