"""Processes that are ranks of one run, started as MLX's launcher starts them, without it."""

import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path

from grpo_cli.distributed.topology import WATCH_PORTS
from tests.support.forked import start
from tests.support.waiting import HANG


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, nor those on which the ranks would watch one another."""
    found: list[int] = []
    port = 20000 + os.getpid() * 97 % 20000  # tests run in several processes, whose numbers are neighbors
    while len(found) < count:
        port += 1
        if is_free(port) and is_free(port + WATCH_PORTS):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether a port can be listened on."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Ranks:
    """Some ranks of one command, on the loopback ring."""

    def __init__(self, words: list[list[str]], ports: list[int] | None = None) -> None:
        """`words`: what Python runs, for each rank."""
        ports = ports or free_ports(len(words))
        folder = Path(tempfile.mkdtemp(prefix="grpo-ranks-"))
        hosts = folder / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
        self.processes = [
            start(
                arguments,
                env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for rank, arguments in enumerate(words)
        ]

    def are_running(self) -> bool:
        """Whether none has ended."""
        return all(process.poll() is None for process in self.processes)

    def wait(self) -> list[tuple[int, str, str]]:
        """Exit code, stdout and stderr of each rank; those that hang are killed."""
        ended = []
        for process in self.processes:
            try:
                out, errors = process.communicate(timeout=HANG)
            except subprocess.TimeoutExpired:
                for hanging in self.processes:
                    hanging.kill()
                out, errors = process.communicate(timeout=HANG)
            ended.append((process.returncode, out, errors))
        return ended


def grpo(count: int, *words: str) -> list[tuple[int, str, str]]:
    """A command of ours on so many ranks, to its end."""
    return Ranks([["-m", "grpo_cli", *words]] * count).wait()
