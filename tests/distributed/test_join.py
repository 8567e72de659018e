"""Joining the other ranks: alone without a launcher, and the reasons why MLX cannot connect."""

import subprocess
import sys

import pytest

from grpo_cli.distributed.join import cannot_connect, check_port, join, time_limit
from grpo_cli.distributed.links import listen
from grpo_cli.distributed.topology import Address, RankInfo
from grpo_cli.distributed.world import ALONE
from grpo_cli.errors import TrainingError
from tests.support.started_ranks import free_ports

SLOW = """
import time
from grpo_cli.distributed.join import time_limit
with time_limit(0.2, "MLX did not connect"):
    time.sleep(600)
"""


@pytest.fixture
def place() -> RankInfo:
    ring = tuple(Address("127.0.0.1", port) for port in free_ports(2))
    return RankInfo(rank=1, size=2, backend="ring", ring=ring)


def test_a_process_without_a_launcher_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLX_RANK", raising=False)
    assert join() is ALONE


def test_a_port_that_mlx_needs_is_checked_before(place: RankInfo) -> None:
    check_port(place)
    with listen(place.ring[1]), pytest.raises(TrainingError, match=r"^The port of rank 1 is in use: Port "):
        check_port(place)


@pytest.mark.parametrize("number", [98, 48])  # EADDRINUSE on Linux and on macOS
def test_a_port_in_use_is_told_from_other_errors(place: RankInfo, number: int) -> None:
    used = cannot_connect(place, RuntimeError(f"[ring] bind failed (error: {number})"))
    assert used.message.startswith(f"The port of rank 1 {place.ring[1]} is in use: ")
    other = cannot_connect(place, RuntimeError("[ring] no route (error: 113)"))
    assert other.message == "MLX cannot connect the ranks by ring: [ring] no route (error: 113)"


def test_a_block_within_its_time_limit_goes_on() -> None:
    with time_limit(60.0, "too late"):
        pass


def test_a_block_beyond_its_time_limit_is_killed() -> None:
    ended = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stderr) == (-9, "MLX did not connect\n")
