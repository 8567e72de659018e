"""The one place of what differs between a CPU, a Mac's Metal and a CUDA card.

    device = prepare()        # Device(kind='cpu', name='AMD EPYC', memory_bytes=…, upcast=True, …)

Every command calls `prepare()` where it crosses from light to heavy, before anything else imports
mlx or mlx_lm. Facts of a machine are worked out by functions that are given what MLX and the system
report, so that machines which are not at hand can be tested from recorded reports.

`GRPO_DEVICE` chooses among the devices there are: `cpu`, `metal` or `cuda`.
"""

import functools
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from grpo_cli.cpu.blas import BlasReport, use_fast_blas
from grpo_cli.errors import ConfigError

Kind = Literal["cpu", "metal", "cuda"]
Info = Mapping[str, str | int]  # what mx.device_info() reports

CUDA_PACKAGES = ("mlx-cuda-12", "mlx-cuda-13", "mlx-cuda")
CPU_CACHE_BYTES = 1 << 30  # MLX's default on the CPU, 32 MiB, makes every step fetch its pages anew
WIRED_SINCE = 15  # the first macOS that lets a process wire its memory
# Limits of a container (cgroup v2, v1); a machine without them has neither file or says "max".
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that computes, and what follows from it."""

    kind: Kind
    name: str
    memory_bytes: int | None  # the machine's, or the CUDA card's own
    working_set_bytes: int | None = None  # Metal: what the system recommends to use at most
    upcast: bool = False  # convert weights to float32: half precision is 50 times slower on a CPU
    compile: bool = True  # mx.compile pays off; on Linux it would call a C++ compiler
    blas: BlasReport | None = None  # on the CPU only


@functools.cache
def prepare() -> Device:
    """Set MLX up for this machine and say what it is; later calls return the same Device.

    Raises ConfigError when GRPO_DEVICE names a device that is not there.
    """
    requested = os.environ.get("GRPO_DEVICE", "").lower()
    if expects_cpu(requested, sys.platform, installed(CUDA_PACKAGES)):
        os.environ["MLX_DISABLE_COMPILE"] = "1"  # read when mlx is imported
    import mlx.core as mx

    kind = choose_kind(requested, mx.metal.is_available(), has_cuda())
    if kind == "cpu":
        return prepare_cpu()
    mx.set_default_device(mx.gpu)
    info = mx.device_info()
    limit = wired_limit(info, platform.mac_ver()[0])
    if limit is not None:
        mx.set_wired_limit(limit)
    return describe(kind, info, total_memory(), None)


def prepare_cpu() -> Device:
    """Make the CPU the default device and set MLX up for it."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    mx.disable_compile()  # in case mlx was imported before us
    mx.set_cache_limit(CPU_CACHE_BYTES)
    return describe("cpu", mx.device_info(), total_memory(), use_fast_blas())


def has_cuda() -> bool:
    """Whether MLX has a CUDA card; builds before CUDA have no `mx.cuda` at all."""
    import mlx.core as mx

    cuda = getattr(mx, "cuda", None)
    return cuda is not None and bool(cuda.is_available())


def installed(packages: tuple[str, ...]) -> bool:
    """Whether one of these distributions is installed."""
    for package in packages:
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            continue
        return True
    return False


def expects_cpu(requested: str, system: str, cuda_installed: bool) -> bool:
    """Whether the device will be a CPU, as far as it can be known before mlx is imported."""
    return requested == "cpu" or (system == "linux" and not cuda_installed)


def choose_kind(requested: str, metal: bool, cuda: bool) -> Kind:
    """The device to use: the one requested, else the fastest there is.

    Raises ConfigError for a request that is no device or one that is not there.
    """
    present: list[Kind] = [*(["metal"] if metal else []), *(["cuda"] if cuda else []), "cpu"]  # type: ignore[list-item]
    if not requested:
        return present[0]
    for kind in present:
        if kind == requested:
            return kind
    raise ConfigError(
        f"Device not available: GRPO_DEVICE={requested}",
        f"set GRPO_DEVICE to {' or '.join(f'`{kind}`' for kind in present)}, or unset it"
        + ("; for a CUDA card install `grpo-cli[cuda13]`" if requested == "cuda" else ""),
        trouble="mlx-backend",
    )


def describe(kind: Kind, info: Info, ram_bytes: int | None, blas: BlasReport | None) -> Device:
    """The Device from what MLX reports of it and the machine's memory in bytes."""
    name = str(info.get("device_name") or info.get("architecture") or kind)
    if kind == "cpu":
        return Device(kind="cpu", name=name, memory_bytes=ram_bytes, upcast=True, compile=False, blas=blas)
    own = int(info.get("memory_size") or info.get("total_memory") or 0)
    recommended = int(info.get("max_recommended_working_set_size") or 0)
    memory = own or (ram_bytes if kind == "metal" else None)  # a card's memory is not the machine's
    return Device(kind=kind, name=name, memory_bytes=memory, working_set_bytes=recommended or None)


def wired_limit(info: Info, macos: str) -> int | None:
    """How many bytes MLX may keep wired: what Metal recommends, never above, or None to leave it.

    `macos` is the version as "15.6"; before 15 nothing can be wired.
    """
    major = macos.split(".")[0]
    if not major.isdigit() or int(major) < WIRED_SINCE:
        return None
    return int(info.get("max_recommended_working_set_size") or 0) or None


def total_memory() -> int | None:
    """Memory in bytes that this process may use: the machine's, or its container's limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text() for path in map(Path, CGROUP_LIMITS) if path.is_file()]
    return usable_memory(physical, limits)


def usable_memory(physical: int, limits: list[str]) -> int | None:
    """The least of the physical memory and the limits that are numbers; None when it is unknown."""
    known = [int(text) for text in limits if text.strip().isdigit()]
    return min([physical, *known]) if physical > 0 else None


def memory_budget(device: Device) -> int | None:
    """Bytes that this process may have in all, or None where that is not known.

    Metal: what the system recommends; a CUDA card: what is free on it and what is ours; a CPU: what is
    available and what is ours.
    """
    import mlx.core as mx

    if device.kind == "metal":
        return device.working_set_bytes
    ours = int(mx.get_active_memory())
    if device.kind == "cuda":
        free = int(mx.device_info().get("free_memory") or 0)
        return free + ours if free else device.memory_bytes
    free_ram = available_memory(Path("/proc/meminfo"))
    if free_ram is None:
        return device.memory_bytes
    return min(free_ram + ours, device.memory_bytes or free_ram + ours)


def available_memory(meminfo: Path) -> int | None:
    """Bytes that Linux says can be taken without swapping; None where it does not say."""
    if not meminfo.is_file():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    kilobytes = fields.get("MemAvailable", "").split()
    return int(kilobytes[0]) * 1024 if kilobytes and kilobytes[0].isdigit() else None


def peak_memory_gb() -> float:
    """The most memory that MLX's arrays have taken since the last reset, in 10⁹ bytes."""
    import mlx.core as mx

    return mx.get_peak_memory() / 1e9


def reset_peak_memory() -> None:
    """Begin to measure the peak anew."""
    import mlx.core as mx

    mx.reset_peak_memory()
