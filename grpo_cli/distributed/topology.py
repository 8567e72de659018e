"""This process's rank and neighbours, from the environment that `mlx.launch` sets.

    find_rank(os.environ)       # RankInfo(rank=1, size=2, backend='ring', …), or None for a process alone

MLX's launcher sets every rank's number in MLX_RANK, and the addresses of the others in a variable for each
backend: MLX_HOSTFILE (ring), MLX_JACCL_COORDINATOR with MLX_IBV_DEVICES (jaccl), NCCL_HOST_IP with
MLX_WORLD_SIZE (nccl).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_cli.errors import ConfigError
from grpo_cli.untrusted_json import parse_as, read_as, read_bytes

LAUNCHER = "GRPO_LAUNCHER"  # process id of `grpo launch`, for the ranks on its machine
WATCH_PORTS = 1000  # offset from MLX's ports to those on which ranks watch each other
JACCL_PORT, NCCL_PORT = 32323, 12345  # defaults of mlx.launch
# Variables by which other launchers mark one of several processes.
OTHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")


@dataclass(frozen=True)
class Address:
    """Host and port on which a rank listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class RankInfo:
    """One rank of several, with the addresses of its neighbours.

    On a ring each rank reaches only the next one (machines on Thunderbolt cables have no other route); with
    the other backends each reaches rank 0.
    """

    rank: int
    size: int
    backend: str
    ring: tuple[Address, ...] = ()  # MLX's addresses, by rank; empty unless the backend is the ring
    coordinator: Address | None = None  # rank 0's address, with the other backends

    @property
    def listens_on(self) -> Address | None:
        """Address on which this rank waits for its watchers; None if it only calls others."""
        if self.ring:
            return watching(self.ring[self.rank])
        return watching(self.coordinator) if self.coordinator and self.rank == 0 else None

    @property
    def calls(self) -> dict[int, Address]:
        """The ranks that this one calls."""
        if self.ring:
            following = (self.rank + 1) % self.size
            return {following: watching(self.ring[following])}
        return {0: watching(self.coordinator)} if self.coordinator and self.rank else {}

    @property
    def callers(self) -> list[int]:
        """The ranks that call this one."""
        if self.ring:
            return [(self.rank - 1) % self.size]
        return list(range(1, self.size)) if self.rank == 0 else []

    @property
    def on_this_machine(self) -> int:
        """Number of ranks that share this one's cores, as far as the addresses show."""
        here = [address.host for address in self.ring].count(self.ring[self.rank].host) if self.ring else 1
        return max(1, here)


def watching(address: Address) -> Address:
    """Watch address of a rank, derived from its MLX address."""
    return Address(address.host, address.port + WATCH_PORTS)


def find_rank(environment: Mapping[str, str]) -> RankInfo | None:
    """This process's rank; None if it is alone.

    Raises ConfigError for an invalid environment, or one of another launcher.
    """
    if "MLX_RANK" not in environment:
        refuse_others(environment)
        return None
    try:
        place = read_rank(environment)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"The ranks of this run cannot be determined: MLX_RANK={environment['MLX_RANK']} and {error}",
            "start it with `grpo launch` or `mlx.launch`, or unset MLX_RANK for a single process",
            trouble="several-machines",
        ) from error
    return place if place.size > 1 else None


def read_rank(environment: Mapping[str, str]) -> RankInfo:
    """The rank that the launcher's variables describe. Raises KeyError, ValueError or OSError if they are
    invalid.
    """
    rank = int(environment["MLX_RANK"])
    if "MLX_HOSTFILE" in environment:
        text = read_bytes(Path(environment["MLX_HOSTFILE"])).strip()
        ring = tuple(parse_address(addresses[0]) for addresses in parse_as(list[list[str]], text or b"[]"))
        return within(RankInfo(rank=rank, size=len(ring) or 1, backend="ring", ring=ring))
    if "MLX_JACCL_COORDINATOR" in environment:
        devices = read_as(list[Any], Path(environment["MLX_IBV_DEVICES"]))
        address = parse_address(environment["MLX_JACCL_COORDINATOR"], JACCL_PORT)
        return within(RankInfo(rank=rank, size=len(devices), backend="jaccl", coordinator=address))
    address = Address(environment["NCCL_HOST_IP"], int(environment.get("NCCL_PORT", NCCL_PORT)))
    return within(
        RankInfo(rank=rank, size=int(environment["MLX_WORLD_SIZE"]), backend="nccl", coordinator=address)
    )


def within(place: RankInfo) -> RankInfo:
    """The place itself. Raises ValueError if its rank is out of range."""
    if not 0 <= place.rank < place.size:
        raise ValueError(f"there are {place.size} ranks")
    return place


def parse_address(text: str, port: int | None = None) -> Address:
    """`host:port`; an IPv6 address is in brackets. Raises ValueError for anything else."""
    host, _, given = text.rpartition(":")
    if not host and port is not None:
        return Address(text, port)
    return Address(host.removeprefix("[").removesuffix("]"), int(given))


def refuse_others(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if another launcher started several processes: each would train alone."""
    for name in OTHERS:
        if environment.get(name, "1").isdecimal() and int(environment.get(name, "1")) > 1:
            raise ConfigError(
                f"{name}={environment[name]}: this launcher's processes would each train alone",
                f"start them with `grpo launch` (MLX's ring, jaccl or nccl), or unset {name}",
                trouble="several-machines",
            )
