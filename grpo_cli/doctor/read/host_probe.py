"""Probes of the machines in a host file: each one's facts, or the reason that it cannot be reached.

    found = probe_hosts(machine, read_hosts(path), "/home/ada/.venv/bin/python")
    found["mac2.local"].facts["versions"]["mlx"]        # '0.32.4'
    found["mac3.local"].trouble                         # Trouble('ssh refuses our key', …)

Machines are reached as `mlx.launch` reaches them: by ssh, except 127.0.0.1. ssh never asks for a password.
"""

import re
import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_cli.distributed.hosts import HERE, HostFile
from grpo_cli.doctor.read.machine import Attempt, Machine, answers_in

CONNECT_SECONDS = 5
ANSWER_SECONDS = 60  # the first import of MLX reads all of it from the disk
SSH_FAILED = 255  # ssh's own exit code
NOT_FOUND = (126, 127)
FACTS = "grpo_cli.distributed.facts"


@dataclass(frozen=True)
class Trouble:
    """The reason that a host could not be probed, and the cure."""

    seen: str
    cure: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostProbe:
    """Result of probing a host: its facts, or a trouble."""

    ssh: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    trouble: Trouble | None = None


def probe_hosts(machine: Machine, file: HostFile, python: str) -> dict[str, HostProbe]:
    """Probe all machines of the host file at once; results by ssh name. `python`: its path on each."""
    machines = file.machines
    with ThreadPoolExecutor(max_workers=len(machines)) as pool:
        asked = {ssh: pool.submit(probe_host, machine, file, python, ssh) for ssh in machines}
    return {ssh: future.result() for ssh, future in asked.items()}


def probe_host(machine: Machine, file: HostFile, python: str, ssh: str) -> HostProbe:
    """Probe one machine."""
    attempt = machine.attempt(*command(python, ssh, file.machines[ssh]), seconds=ANSWER_SECONDS)
    facts = answers_in(attempt.output.encode()).get("facts")
    if attempt.code == 0 and isinstance(facts, dict):
        return HostProbe(ssh, facts)
    return HostProbe(ssh, trouble=trouble_of(attempt, ssh, python, file.path))


def command(python: str, ssh: str, ips: tuple[str, ...]) -> list[str]:
    """The command that prints a machine's facts or, if that fails, the path of its `grpo`."""
    ask = shlex.join([python, "-P", "-m", FACTS, *ips])
    script = f"{ask} || {{ code=$?; command -v grpo; exit $code; }}"
    if ssh == HERE:
        return ["sh", "-c", script]
    # `sh -c`, since the login shell there is unknown.
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    return ["ssh", *options, ssh, f"sh -c {shlex.quote(script)}"]


def trouble_of(attempt: Attempt, ssh: str, python: str, hosts: Path) -> Trouble:
    """The trouble behind a failed attempt."""
    if attempt.code is None:
        return Trouble(
            f"no answer in {ANSWER_SECONDS} s",
            "check that a command by hand finishes: its shell's start files may wait for input, or its "
            "disk may hang",
            (f"ssh {shlex.quote(ssh)} true",),
        )
    if attempt.code == 127 and attempt.complaint.startswith("ssh: "):
        return Trouble("this machine has no ssh", "install it: macOS has it, Debian in `openssh-client`")
    if attempt.code == SSH_FAILED and ssh != HERE:
        return ssh_trouble(ssh, attempt.complaint)
    return python_trouble(attempt, python, hosts)


def python_trouble(attempt: Attempt, python: str, hosts: Path) -> Trouble:
    """The trouble of a machine that was reached but whose Python is missing or fails."""
    last = last_line(attempt.complaint)
    if attempt.code in NOT_FOUND:
        return Trouble(
            f"there is no {python}",
            "every machine uses the same path: create the environment at the same path there, or name one "
            "that all have with `--python`",
            found_elsewhere(attempt.output, hosts),
        )
    if "Unknown option: -P" in attempt.complaint:
        return Trouble(f"{python} is older than Python 3.11 there", "use a newer one: `--python`")
    if "No module named" in last and "grpo_cli" in last:
        return Trouble(
            f"{python} has no `grpo` there, or an older one ({last})",
            "install the version that is here, into that Python or into one that `--python` names",
            found_elsewhere(attempt.output, hosts),
        )
    return Trouble(
        f"{python} fails there: {last or f'it ended with {attempt.code}'}", "fix that on the machine itself"
    )


SSH_TROUBLES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    # pattern in ssh's output, meaning, cure, commands
    (
        r"Could not resolve hostname",
        "the name is not known here",
        "write a name or address that ssh knows: one of ~/.ssh/config, or a Mac's with `.local` at its end",
        (),
    ),
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "ssh knows another machine of this name",
        "if it was reinstalled, remove its old key and accept the new one by hand",
        ("ssh-keygen -R {name}", "ssh {ssh} true"),
    ),
    (
        r"Host key verification failed",
        "ssh does not know this machine yet",
        "log in once by hand and accept its key",
        ("ssh {ssh} true",),
    ),
    (
        r"Permission denied|Too many authentication failures",
        "ssh refuses our key, or has none and would ask for a password",
        "put your key there; another user's name goes before it as `user@host`",
        ("ssh-copy-id {ssh}",),
    ),
    (
        r"Connection refused",
        "it runs no ssh server",
        "macOS: System Settings, General, Sharing, Remote Login; Linux: install and start `openssh-server`",
        (),
    ),
    (
        r"timed out|No route to host|Network is unreachable|Host is down",
        "it is not there",
        "check that it is on, awake and in this network, and that no firewall blocks port 22",
        (),
    ),
)


def ssh_trouble(ssh: str, complaint: str) -> Trouble:
    """The trouble behind a failure of ssh itself."""
    last = last_line(complaint)
    if ssh in ("localhost", "::1"):
        return Trouble(f"ssh fails: {last}", f"write {HERE}, where a rank starts without ssh")
    names = {"ssh": shlex.quote(ssh), "name": shlex.quote(ssh.rpartition("@")[2])}
    for pattern, what, cure, lines in SSH_TROUBLES:
        if re.search(pattern, complaint):
            return Trouble(f"{what} ({last})", cure, tuple(line.format(**names) for line in lines))
    return Trouble(
        f"ssh fails: {last or 'it prints nothing'}", "see what it says", (f"ssh -v {names['ssh']} true",)
    )


def found_elsewhere(output: str, hosts: Path) -> tuple[str, ...]:
    """The command that uses the Python next to the `grpo` found there; empty if none was found."""
    found = last_line(output)
    if not found.startswith("/") or not found.endswith("/grpo"):
        return ()
    python = found.removesuffix("grpo") + "python"
    return (shlex.join(["grpo", "doctor", "--hosts", str(hosts), "--python", python]),)


def last_line(text: str) -> str:
    """The last line that is not blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
