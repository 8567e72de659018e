"""The backend that suits the hosts: Macs with RDMA and without, CUDA cards, and what the file says."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.doctor.findings import Finding
from tests.support.machines import look, told
from tests.support.recorded_hosts import CABLES, CUDA, HOSTS, LINUX, MAC, alike, context, says


def way(tmp_path: Path, one: dict[str, Any], two: dict[str, Any], document: Any, kind: str) -> Finding:
    return look("backend-to-use", context(tmp_path, alike(one, two), document, kind))


def test_macs_with_rdma(tmp_path: Path) -> None:
    finding = way(tmp_path, MAC, MAC, {"backend": "jaccl", "hosts": CABLES}, "m3max_macos26")
    assert told(finding) == ("ok", "jaccl suits these hosts", ())
    finding = way(tmp_path, MAC, MAC, CABLES, "m3max_macos26")
    assert finding.severity == "warning"
    assert finding.seen == ("the file names no backend, so the launcher takes ring; jaccl suits these hosts")
    assert finding.cure.startswith('write `"backend": "jaccl"` into ')
    finding = way(tmp_path, MAC, MAC, {"backend": "ring", "hosts": CABLES}, "m3max_macos26")
    assert told(finding) == ("ok", "the file says ring, which works; jaccl would be faster", ())


@pytest.mark.parametrize(
    ("changes", "document", "obstacle"),
    [
        ({"macos": "26.1"}, CABLES, "two has macOS 26.1, but RDMA over Thunderbolt came with 26.2"),
        (
            {"rdma": []},
            CABLES,
            "two has no RDMA device: Thunderbolt 5, and `rdma_ctl enable` in its recovery system",
        ),
        ({"rdma": ["rdma_en5"]}, CABLES, "two has no rdma_en2; it has rdma_en5"),
        ({"backends": ["ring"]}, CABLES, "MLX of two was built without it"),
        ({"system": "Linux"}, CABLES, "two is not a Mac"),
        (
            {},
            HOSTS,
            "the file has no device in `rdma` from one to two; `mlx.distributed_config --backend jaccl` "
            "writes them",
        ),
        (
            {},
            [{**CABLES[0], "rdma": ["rdma_en2", "rdma_en2"]}, CABLES[1]],
            "the file has a device in `rdma` from one to itself, which must be null",
        ),
    ],
)
def test_what_keeps_macs_from_rdma(
    tmp_path: Path, changes: dict[str, Any], document: Any, obstacle: str
) -> None:
    two = {**MAC, **changes}
    finding = way(tmp_path, MAC, two, document, "m3max_macos26")
    assert finding.severity == "ok"
    assert finding.numbers["best"] == "ring"
    assert finding.seen.startswith(f"ring suits these hosts (jaccl: {obstacle}; nccl: ")
    finding = way(tmp_path, MAC, two, {"backend": "jaccl", "hosts": document}, "m3max_macos26")
    assert told(finding)[:2] == (
        "error",
        f"the file says jaccl, which cannot work: {obstacle}; use ring",
    )


def test_four_macs_in_a_ring_of_cables(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    hosts = []
    for one, name in enumerate(names):
        rdma: list[str | None] = [None] * 4
        rdma[(one + 1) % 4], rdma[one - 1] = "rdma_en2", "rdma_en3"
        hosts.append({"ssh": name, "ips": [f"10.0.0.{one}"], "rdma": rdma})
    attempts = {f" {name} sh -c": says(MAC) for name in names}
    finding = look("backend-to-use", context(tmp_path, attempts, {"backend": "jaccl-ring", "hosts": hosts}))
    assert finding.severity == "ok"
    assert finding.seen.startswith(
        "jaccl-ring suits these hosts (jaccl: the file has no device in `rdma` from a to c;"
    )


def test_cards_with_cuda(tmp_path: Path) -> None:
    finding = way(tmp_path, CUDA, CUDA, HOSTS, "linux_cuda")
    assert told(finding) == ("ok", "nccl suits these hosts (jaccl: one is not a Mac)", ())
    finding = way(tmp_path, CUDA, LINUX, HOSTS, "linux_cuda")
    assert told(finding)[:2] == (
        "error",
        "the file names no backend, so the launcher takes nccl, which cannot work: two computes on cpu, "
        "not on a CUDA card; use ring",
    )
    twice = [HOSTS[0], HOSTS[0]]
    finding = way(tmp_path, CUDA, CUDA, {"backend": "ring", "hosts": twice}, "linux_cuda")
    assert (finding.severity, finding.numbers["best"]) == ("ok", "ring")
    assert "one is in the file twice" in finding.seen


def test_a_backend_that_we_do_not_run_on(tmp_path: Path) -> None:
    finding = way(tmp_path, LINUX, LINUX, {"backend": "mpi", "hosts": HOSTS}, "linux_cpu")
    assert finding.severity == "error"
    assert finding.seen.startswith("the file says mpi, which grpo does not run on; ring suits these hosts (")


def test_hosts_without_addresses(tmp_path: Path) -> None:
    finding = way(tmp_path, LINUX, LINUX, [{"ssh": "one"}, {"ssh": "two"}], "linux_cpu")
    assert finding.seen == (
        "no backend connects these hosts: jaccl: one is not a Mac; nccl: one computes on cpu, not on a CUDA "
        "card; ring: the file has no `ips` for one, two"
    )
