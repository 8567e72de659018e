"""Facts about a machine as a line of JSON; `grpo doctor --hosts` runs it on every host.

    python -m grpo_cli.distributed.facts 10.0.0.1 10.0.0.2
    # {"facts": {"host": "mac1", "versions": {"mlx": "0.32.4", …}, "addresses": {"10.0.0.1": true, …}, …}}

The addresses are this machine's in the host file: it listens on each to see if it is its own.
"""

import hashlib
import json
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("mlx", "mlx-lm", "tokenizers", "transformers")
BACKENDS = ("ring", "jaccl", "nccl")
COMMAND_SECONDS = 5


def main(addresses: list[str]) -> None:
    """Print the facts as JSON."""
    print(json.dumps({"facts": facts(addresses)}), flush=True)


def facts(addresses: list[str]) -> dict[str, Any]:
    """All facts by name; `mlx_error` replaces `device` and `backends` if MLX is broken."""
    return {
        "host": platform.node(),
        "system": platform.system(),
        "macos": platform.mac_ver()[0],
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": {"grpo": own_version(), **{name: version(name) for name in PACKAGES}},
        "addresses": {address: is_own(address) for address in addresses},
        "rdma": rdma_devices(),
        **mlx_facts(),
    }


def mlx_facts() -> dict[str, Any]:
    """MLX's device and its available backends for connecting ranks."""
    try:
        import mlx.core as mx

        from grpo_cli.device import has_cuda
    except ImportError as error:
        return {"mlx_error": str(error)}
    device = "metal" if mx.metal.is_available() else "cuda" if has_cuda() else "cpu"
    return {"device": device, "backends": [name for name in BACKENDS if mx.distributed.is_available(name)]}


def version(package: str) -> str:
    """The installed version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def own_version() -> str:
    """Our version with a checksum of the sources: two checkouts may have the same version."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{version('grpo-cli')} (sources {digest.hexdigest()[:8]})"


def is_own(address: str) -> bool:
    """True if this machine can listen on the address."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listening:
            listening.bind(place)
    except OSError:
        return False
    return True


def rdma_devices() -> list[str]:
    """The devices for RDMA over Thunderbolt; none if it is not enabled, or not on a Mac."""
    try:
        done = subprocess.run(
            ["ibv_devices"], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [word for word in done.stdout.split() if word.startswith("rdma_")]


if __name__ == "__main__":
    main(sys.argv[1:])
