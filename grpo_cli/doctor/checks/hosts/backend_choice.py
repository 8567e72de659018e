"""The MLX backend that suits a host file: RDMA between Macs, NCCL between CUDA cards, else TCP.

    obstacle_to_jaccl(file, facts)       # 'mac2.local has macOS 26.1, and RDMA came with 26.2', or ''

The requirements of jaccl are in Apple's technote TN3205, "Low-latency communication with RDMA over
Thunderbolt".
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from grpo_cli.distributed.hosts import HostFile
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.versions import is_older

RDMA_SINCE = "26.2"  # macOS
All = Mapping[str, Mapping[str, Any]]  # each machine's facts, by its ssh name


def backend_to_use(context: Context) -> Iterator[Finding]:
    """The backend that suits the hosts; the one that the file names works."""
    file = context.host_file
    assert file is not None
    silent = [probe.ssh for probe in context.host_probes.values() if "backends" not in probe.facts]
    if silent:
        yield skipped(f"it is unknown what {', '.join(silent)} can do")
        return
    facts = {ssh: probe.facts for ssh, probe in context.host_probes.items()}
    obstacles = {name: look(file, facts) for name, look in OBSTACLES.items()}
    # If the file names none, the launcher chooses.
    taken = file.backend or ("nccl" if context.probe.get("cuda") else "ring")
    yield verdict(file, taken, obstacles)


def verdict(file: HostFile, taken: str, obstacles: dict[str, str]) -> Finding:
    """The finding for the backend `taken`. `obstacles`: each backend's obstacle or "", best backend first."""
    best = next((name for name, obstacle in obstacles.items() if not obstacle), "")
    numbers = {"best": best, "taken": taken, "obstacles": dict(obstacles)}
    better = list(obstacles)[: list(obstacles).index(best)] if best else list(obstacles)
    # An obstacle that both kinds of jaccl share is reported once.
    told = {obstacles[name]: name for name in reversed(better)}
    against = "; ".join(f"{name}: {why}" for why, name in reversed(told.items()))
    words = f"{best} suits these hosts" + (f" ({against})" if against else "")
    if not best:
        return error(f"no backend connects these hosts: {against}", "complete the file", **numbers)
    says = "the file says" if file.backend else "the file names no backend, so the launcher takes"
    cure = f'write `"backend": "{best}"` into {file.path}, or start with `--backend {best}`'
    if taken not in obstacles:
        return error(f"{says} {taken}, which grpo does not run on; {words}", cure, **numbers)
    if obstacles[taken]:
        return error(f"{says} {taken}, which cannot work: {obstacles[taken]}; use {best}", cure, **numbers)
    if taken != best and not file.backend:
        return warning(f"{says} {taken}; {words}", cure, **numbers)
    if taken != best:
        return ok(f"{says} {taken}, which works; {best} would be faster", **numbers)
    return ok(words, **numbers)


def obstacle_to_jaccl(file: HostFile, facts: All) -> str:
    """The obstacle to RDMA between all pairs of hosts; empty if there is none."""
    return (
        obstacle_of_macs(facts)
        or obstacle_of_cables(file, lambda one, other, _: one != other)
        or missing_devices(file, facts)
        or ("" if file.hosts[0].ips else f"the file has no `ips` for {file.hosts[0].ssh}")
    )


def obstacle_to_jaccl_ring(file: HostFile, facts: All) -> str:
    """The obstacle to RDMA from each host to the next; empty if there is none."""
    return (
        obstacle_of_macs(facts)
        or obstacle_of_cables(file, lambda one, other, size: (one - other) % size in (1, size - 1))
        or missing_devices(file, facts)
        or ("" if file.hosts[0].ips else f"the file has no `ips` for {file.hosts[0].ssh}")
    )


def obstacle_of_macs(facts: All) -> str:
    """The first host that cannot use RDMA over Thunderbolt, with the reason; empty if all can."""
    for ssh, of in facts.items():
        if of["system"] != "Darwin":
            return f"{ssh} is not a Mac"
        if is_older(of["macos"], RDMA_SINCE):
            return f"{ssh} has macOS {of['macos']}, but RDMA over Thunderbolt came with {RDMA_SINCE}"
        if not of["rdma"]:
            return f"{ssh} has no RDMA device: Thunderbolt 5, and `rdma_ctl enable` in its recovery system"
        if "jaccl" not in of["backends"]:
            return f"MLX of {ssh} was built without it"
    return ""


def obstacle_of_cables(file: HostFile, is_needed: Callable[[int, int, int], bool]) -> str:
    """The first pair of hosts without an RDMA device in the file; empty if none lacks one.

    `is_needed(rank, other, size)`: these two ranks must be connected.
    """
    size = len(file.hosts)
    for one, host in enumerate(file.hosts):
        if host.rdma and host.rdma[one]:
            return f"the file has a device in `rdma` from {host.ssh} to itself, which must be null"
        for other, to in enumerate(file.hosts):
            if is_needed(one, other, size) and (not host.rdma or not host.rdma[other]):
                how = "`mlx.distributed_config --backend jaccl` writes them"
                return f"the file has no device in `rdma` from {host.ssh} to {to.ssh}; {how}"
    return ""


def missing_devices(file: HostFile, facts: All) -> str:
    """The first RDMA device of the file that its host lacks; empty if none is missing."""
    for host in file.hosts:
        for device in (device for devices in host.rdma for device in devices):
            if device not in facts[host.ssh]["rdma"]:
                return f"{host.ssh} has no {device}; it has {', '.join(facts[host.ssh]['rdma'])}"
    return ""


def obstacle_to_nccl(file: HostFile, facts: All) -> str:
    """The obstacle to NCCL; empty if there is none."""
    for ssh, of in facts.items():
        if of["device"] != "cuda" or of["system"] != "Linux":
            return f"{ssh} computes on {of['device']}, not on a CUDA card"
        if "nccl" not in of["backends"]:
            return f"MLX of {ssh} was built without it"
    twice = [ssh for ssh in facts if sum(host.ssh == ssh for host in file.hosts) > 1]
    if twice:
        return f"{twice[0]} is in the file twice, and both ranks would use its first card"
    return "" if file.hosts[0].ips else f"the file has no `ips` for {file.hosts[0].ssh}"


def obstacle_to_ring(file: HostFile, facts: All) -> str:  # noqa: ARG001
    """The obstacle to a TCP ring; empty if there is none."""
    names = [host.ssh for host in file.hosts if not host.ips]
    return f"the file has no `ips` for {', '.join(names)}" if names else ""


OBSTACLES: dict[str, Callable[[HostFile, All], str]] = {
    "jaccl": obstacle_to_jaccl,
    "jaccl-ring": obstacle_to_jaccl_ring,
    "nccl": obstacle_to_nccl,
    "ring": obstacle_to_ring,
}
