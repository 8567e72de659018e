"""The host file of `mlx.launch`: the machines of a run, in the order of their ranks.

    file = read_hosts(Path("hosts.json"))
    file.hosts[1].ssh, file.hosts[1].ips           # 'mac2.local', ('10.0.0.2',)

It is a list of hosts, or a table with `hosts` and common settings for MLX's launcher:

    {"backend": "jaccl", "envs": ["MLX_METAL_FAST_SYNCH=1"], "hosts": [
      {"ssh": "mac1.local", "ips": ["10.0.0.1"], "rdma": [null, "rdma_en3"]},
      {"ssh": "mac2.local", "ips": ["10.0.0.2"], "rdma": ["rdma_en3", null]}]}

A host listed twice has two ranks. MLX does not validate the file; here every entry is checked, and keys
that MLX would ignore are refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_cli.errors import ConfigError
from grpo_cli.untrusted_json import DamagedFile, read_json, shown

LARGEST = 1 << 20  # bytes
HERE = "127.0.0.1"  # the only name that mlx.launch does not reach by ssh
KEYS = ("ssh", "ips", "rdma")
SETTING = re.compile(r"(MLX|NCCL|OMP|OPENBLAS)_[A-Z0-9_]+=")
FILE_KEYS = ("backend", "envs", "hosts")
EXAMPLE = '[{"ssh": "mac1.local", "ips": ["10.0.0.1"]}, {"ssh": "mac2.local", "ips": ["10.0.0.2"]}]'

Rdma = tuple[str, ...]  # devices that lead to another host; empty: no cable


@dataclass(frozen=True)
class Host:
    """One rank's machine."""

    ssh: str  # the name for ssh
    ips: tuple[str, ...] = ()  # addresses for the other ranks; the first one is used by the ring
    rdma: tuple[Rdma, ...] = ()  # by the other host's rank; empty without RDMA

    @property
    def is_here(self) -> bool:
        """True if its rank starts without ssh, on the launching machine."""
        return self.ssh == HERE


@dataclass(frozen=True)
class HostFile:
    """All hosts. `backend` is empty if the launcher chooses."""

    path: Path
    hosts: tuple[Host, ...]
    backend: str = ""
    envs: tuple[str, ...] = ()

    @property
    def machines(self) -> dict[str, tuple[str, ...]]:
        """ssh name → all addresses of the machine's ranks, in order."""
        found: dict[str, tuple[str, ...]] = {}
        for host in self.hosts:
            more = tuple(ip for ip in host.ips if ip not in found.get(host.ssh, ()))
            found[host.ssh] = found.get(host.ssh, ()) + more
        return found


class BadEntry(ValueError):
    """A description of what is wrong with part of the file."""


def read_hosts(path: Path) -> HostFile:
    """The host file at `path`. Raises ConfigError if it is missing or invalid for MLX."""
    try:
        document = read_json(path, LARGEST)
    except FileNotFoundError as error:
        raise bad_file(f"Host file not found: {path}") from error
    except OSError as error:
        raise bad_file(f"Cannot read the host file: {path}: {error.strerror}") from error
    except DamagedFile as error:
        raise bad_file(f"The host file cannot be used: {path} {error}") from error
    try:
        return parsed(path, document)
    except BadEntry as error:
        raise bad_file(f"Invalid host file: {path}: {error}") from error


def bad_file(message: str) -> ConfigError:
    """The error for an invalid host file."""
    return ConfigError(
        message,
        f"write one as `{EXAMPLE}`, or have `mlx.distributed_config` write it",
        trouble="several-machines",
    )


def parsed(path: Path, document: Any) -> HostFile:
    """The hosts in a parsed document. Raises BadEntry if it is not a host file."""
    table = document if isinstance(document, dict) else {"hosts": document}
    refuse_unknown("the file", table, FILE_KEYS)
    entries, backend = table.get("hosts"), table.get("backend", "")
    if not isinstance(entries, list) or not entries:
        raise BadEntry("it has no list of hosts")
    if not isinstance(backend, str):
        raise BadEntry(f"`backend` is {shown(backend)}, not a name")
    hosts = tuple(host(f"host {number}", entry) for number, entry in enumerate(entries))
    for number, one in enumerate(hosts):
        if one.rdma and len(one.rdma) != len(hosts):
            raise BadEntry(f"host {number} ({one.ssh}) has {len(one.rdma)} of {len(hosts)} entries in `rdma`")
    return HostFile(path, hosts, backend, settings(table.get("envs", [])))


def settings(value: Any) -> tuple[str, ...]:
    """The value of `envs`. Raises BadEntry for variables that are not settings of MLX: PYTHONPATH, say, names
    code.
    """
    envs = texts("the file", "envs", value)
    for one in envs:
        if not SETTING.match(one):
            raise BadEntry(
                f"`envs` has {shown(one)}: only variables of MLX, NCCL and OpenMP are allowed there"
            )
    return envs


def host(where: str, entry: Any) -> Host:
    """One entry. Raises BadEntry if it is not a host."""
    if not isinstance(entry, dict):
        raise BadEntry(f"{where} is {shown(entry)}, not a table with `ssh` and `ips`")
    refuse_unknown(where, entry, KEYS)
    ssh = entry.get("ssh")
    if not isinstance(ssh, str) or not ssh:
        raise BadEntry(f"{where} has no `ssh`, the name that ssh uses for it")
    where = f"{where} ({ssh})"
    if ssh.startswith("-") or ssh.split() != [ssh]:  # ssh would treat it as an option or a command
        raise BadEntry(f"{where}: `ssh` is not a machine name")
    rdma = entry.get("rdma", [])
    if not isinstance(rdma, list):
        raise BadEntry(f"{where}: `rdma` is {shown(rdma)}, not a list")
    return Host(ssh, texts(where, "ips", entry.get("ips", [])), tuple(devices(where, one) for one in rdma))


def devices(where: str, value: Any) -> Rdma:
    """One item of `rdma`: null, a device or several."""
    return texts(where, "rdma", [] if value is None else [value] if isinstance(value, str) else value)


def texts(where: str, key: str, value: Any) -> tuple[str, ...]:
    """A list of non-empty texts. Raises BadEntry for anything else."""
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise BadEntry(f"{where}: `{key}` is {shown(value)}, not a list of strings")
    return tuple(value)


def refuse_unknown(where: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raise BadEntry for a key that MLX would ignore."""
    for key in table:
        if key not in known:
            raise BadEntry(f"{where} has an unknown key `{key}`; known are {', '.join(known)}")
