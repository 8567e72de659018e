"""Hosts as they answer ssh and the ring's test, in the words that their systems are known to use."""

import json
from pathlib import Path
from typing import Any

from grpo_cli.doctor.context import Context
from tests.support.machines import context_on

PYTHON = "/home/ada/grpo-env/bin/python"  # of the recorded machine
VERSIONS = {
    "grpo": "0.1.0 (sources 01234567)",
    "mlx": "0.32.4",
    "mlx-lm": "0.32.2",
    "tokenizers": "0.22.1",
    "transformers": "5.0.0",
}
LINUX: dict[str, Any] = {
    "system": "Linux",
    "macos": "",
    "architecture": "x86_64",
    "python": "3.12.3",
    "versions": VERSIONS,
    "rdma": [],
    "device": "cpu",
    "backends": ["ring"],
}
CUDA = {**LINUX, "device": "cuda", "backends": ["ring", "nccl"]}
MAC = {
    **LINUX,
    "system": "Darwin",
    "macos": "26.2",
    "architecture": "arm64",
    "device": "metal",
    "backends": ["ring", "jaccl"],
    "rdma": ["rdma_en2", "rdma_en3", "rdma_en4"],
}
RING = {"size": 2, "latency_ms": 0.0625, "bytes": 1 << 26, "seconds": 0.5, "moved_gb_s": 0.134217728}
HOSTS = [{"ssh": "one", "ips": ["10.0.0.1"]}, {"ssh": "two", "ips": ["10.0.0.2"]}]
CABLES = [
    {"ssh": "one", "ips": ["10.0.0.1"], "rdma": [None, "rdma_en2"]},
    {"ssh": "two", "ips": ["10.0.0.2"], "rdma": ["rdma_en2", None]},
]


def says(facts: dict[str, Any], *addresses: str, **changes: Any) -> list[Any]:
    """How a host answers, after what its shell's start files print."""
    own = {"host": "engine", "addresses": dict.fromkeys(addresses, True), **facts, **changes}
    return [0, f"Welcome!\n{json.dumps({'facts': own})}\n", ""]


def context(
    tmp_path: Path,
    attempts: dict[str, list[Any]],
    document: Any = None,
    kind: str = "linux_cpu",
    **named: Any,
) -> Context:
    """A context on a recorded machine, `attempts` by words of their commands, with a host file."""
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(HOSTS if document is None else document))
    programs = {"/home/ada/grpo-env/bin/mlx.launch": "/home/ada/grpo-env/bin/mlx.launch"}
    return context_on(kind, {"attempts": attempts, "programs": programs}, hosts=path, **named)


def alike(one: dict[str, Any], two: dict[str, Any] | None = None, **ring: Any) -> dict[str, list[Any]]:
    """Two hosts that answer, and their ring."""
    return {
        "mlx.launch": [0, json.dumps({"ring": {**RING, **ring}}) + "\n", ""],
        " one sh -c": says(one, "10.0.0.1"),
        " two sh -c": says(two or one, "10.0.0.2"),
    }
