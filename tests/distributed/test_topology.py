"""The rank of a process, from the environments that launchers give."""

import json
from pathlib import Path

import pytest

from grpo_cli.distributed.topology import Address, RankInfo, find_rank, parse_address
from grpo_cli.errors import ConfigError


def ring(tmp_path: Path, rank: int, *addresses: str) -> dict[str, str]:
    file = tmp_path / "hosts"
    file.write_text(json.dumps([[address] for address in addresses]))
    return {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(file)}


def test_a_ring_calls_the_next_and_is_called_by_the_one_before(tmp_path: Path) -> None:
    place = find_rank(ring(tmp_path, 2, "10.0.0.1:32323", "10.0.0.2:32324", "10.0.0.1:32325"))
    assert place is not None
    assert (place.rank, place.size, place.backend) == (2, 3, "ring")
    assert place.listens_on == Address("10.0.0.1", 33325)
    assert place.calls == {0: Address("10.0.0.1", 33323)}
    assert place.callers == [1]
    assert place.on_this_machine == 2


def test_two_ranks_on_a_ring_call_each_other(tmp_path: Path) -> None:
    place = find_rank(ring(tmp_path, 0, "a:1", "b:2"))
    assert place is not None
    assert (place.calls, place.callers) == ({1: Address("b", 1002)}, [1])


@pytest.mark.parametrize("hosts", ["", "[]", '[["127.0.0.1:32323"]]'])
def test_one_rank_is_alone(tmp_path: Path, hosts: str) -> None:
    (tmp_path / "hosts").write_text(f"{hosts}\n")
    assert find_rank({"MLX_RANK": "0", "MLX_HOSTFILE": str(tmp_path / "hosts")}) is None
    assert find_rank({}) is None


def test_with_a_coordinator_all_call_rank_0(tmp_path: Path) -> None:
    devices = tmp_path / "devices"
    devices.write_text(json.dumps([[None, "a", "b"], ["a", None, "c"], ["b", "c", None]]))
    places = [
        find_rank(
            {
                "MLX_RANK": str(rank),
                "MLX_JACCL_COORDINATOR": "10.0.0.1:32323",
                "MLX_IBV_DEVICES": str(devices),
            }
        )
        for rank in range(3)
    ]
    first, second, third = places
    assert first is not None and second is not None and third is not None
    assert (first.backend, first.size, first.listens_on) == ("jaccl", 3, Address("10.0.0.1", 33323))
    assert (first.calls, first.callers) == ({}, [1, 2])
    assert (second.calls, second.callers) == ({0: Address("10.0.0.1", 33323)}, [])
    assert third.listens_on is None


def test_nccl() -> None:
    place = find_rank({"MLX_RANK": "1", "NCCL_HOST_IP": "10.0.0.7", "MLX_WORLD_SIZE": "2"})
    assert place == RankInfo(rank=1, size=2, backend="nccl", coordinator=Address("10.0.0.7", 12345))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:5", "10.0.0.1", 5),
        ("[fe80::1%en0]:7", "fe80::1%en0", 7),
        ("mac.local:32323", "mac.local", 32323),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    "environment",
    [
        {"MLX_RANK": "0"},
        {"MLX_RANK": "x", "MLX_HOSTFILE": "/nowhere"},
        {"MLX_RANK": "0", "MLX_HOSTFILE": "/nowhere"},
        {"MLX_RANK": "2", "NCCL_HOST_IP": "h", "MLX_WORLD_SIZE": "2"},
    ],
)
def test_what_is_no_launchers_environment_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^The ranks of this run cannot be determined: MLX_RANK="):
        find_rank(environment)


def test_other_launchers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"OMPI_COMM_WORLD_SIZE=2: this launcher's processes would each"):
        find_rank({"OMPI_COMM_WORLD_SIZE": "2"})
    assert find_rank({"OMPI_COMM_WORLD_SIZE": "1"}) is None
