"""Differences between devices: a CPU, a Mac's Metal and a CUDA card.

    device = prepare()        # Device(kind='cpu', name='AMD EPYC', memory_bytes=…, upcast=True, …)

Every command calls `prepare()` before anything else imports mlx or mlx_lm. Functions that describe a machine
take the reports of MLX and the system as arguments, so other machines can be tested from recorded reports.

`GRPO_DEVICE` selects one of the available devices: `cpu`, `metal` or `cuda`.
"""

import atexit
import functools
import os
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from grpo_cli.cpu.blas import BlasReport, use_fast_blas
from grpo_cli.errors import ConfigError

Kind = Literal["cpu", "metal", "cuda"]
Info = Mapping[str, str | int]  # result of mx.device_info()

CUDA_PACKAGES = ("mlx-cuda-12", "mlx-cuda-13", "mlx-cuda")
CPU_CACHE_BYTES = 1 << 30  # with MLX's default on the CPU, 32 MiB, every step allocates its pages again
TF32_SWITCH = "MLX_ENABLE_TF32"  # MLX reads it at its first product
# GPUs whose matrix units round float32 to TF32: of the M5's generation, from this macOS on.
TF32_GENERATION, TF32_SINCE = 17, (26, 2)
WIRED_SINCE = 15  # the first macOS version that lets a process wire its memory
# Limits of a container (cgroup v2, v1). Without a limit the files are missing or contain "max".
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device in use, and the settings that depend on it."""

    kind: Kind
    name: str
    memory_bytes: int | None  # memory of the machine, or of the CUDA card
    working_set_bytes: int | None = None  # Metal: maximum recommended by the system
    upcast: bool = False  # convert weights to float32: half precision is 50 times slower on a CPU
    rounds_float32: bool = False  # float32 products are computed as TF32, unless that is switched off
    compile: bool = True  # use mx.compile; False on a CPU, where it would call a C++ compiler
    blas: BlasReport | None = None  # on the CPU only


@functools.cache
def prepare() -> Device:
    """Set up MLX for this machine and describe its device; later calls return the same Device.

    Raises ConfigError if GRPO_DEVICE names a device that is not available.
    """
    requested = os.environ.get("GRPO_DEVICE", "").lower()
    # As mlx-lm does, which is not always imported before transformers: else that says PyTorch was not found.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if expects_cpu(requested, sys.platform, installed(CUDA_PACKAGES)):
        os.environ["MLX_DISABLE_COMPILE"] = "1"  # read when mlx is imported
    import mlx.core as mx

    # Else newer builds of MLX abort at Python's end if functions were compiled (mlx issue 4327, on Metal).
    if hasattr(mx, "clear_streams"):
        atexit.register(mx.clear_streams)
    kind = choose_kind(requested, mx.metal.is_available(), has_cuda())
    if kind == "cpu":
        return prepare_cpu()
    mx.set_default_device(mx.gpu)
    info = mx.device_info()
    limit = wired_limit(info, platform.mac_ver()[0])
    if limit is not None:
        mx.set_wired_limit(limit)
    return describe(kind, info, total_memory(), None, platform.mac_ver()[0])


def prepare_cpu() -> Device:
    """Make the CPU the default device and set up MLX for it."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    mx.disable_compile()  # in case mlx was imported before us
    mx.set_cache_limit(CPU_CACHE_BYTES)
    atexit.register(
        mx.synchronize
    )  # OpenBLAS's threads, which end after this, wait for ever for work in flight
    return describe("cpu", mx.device_info(), total_memory(), use_fast_blas())


def has_cuda() -> bool:
    """True if MLX can use a CUDA card. Old builds have no `mx.cuda`."""
    import mlx.core as mx

    cuda = getattr(mx, "cuda", None)
    return cuda is not None and bool(cuda.is_available())


def installed(packages: tuple[str, ...]) -> bool:
    """True if any of these distributions is installed."""
    for package in packages:
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            continue
        return True
    return False


def expects_cpu(requested: str, system: str, cuda_installed: bool) -> bool:
    """True if the device will be a CPU, as far as known before mlx is imported."""
    return requested == "cpu" or (system == "linux" and not cuda_installed)


def choose_kind(requested: str, metal: bool, cuda: bool) -> Kind:
    """The device to use: the requested one, else the fastest available.

    Raises ConfigError if the requested device is unknown or not available.
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


def describe(
    kind: Kind, info: Info, ram_bytes: int | None, blas: BlasReport | None, macos: str = ""
) -> Device:
    """The Device from MLX's report and the machine's memory in bytes. `macos`: the version, as "26.2"."""
    name = str(info.get("device_name") or info.get("architecture") or kind)
    if kind == "cpu":
        return Device(kind="cpu", name=name, memory_bytes=ram_bytes, upcast=True, compile=False, blas=blas)
    own = int(info.get("memory_size") or info.get("total_memory") or 0)
    recommended = int(info.get("max_recommended_working_set_size") or 0)
    memory = own or (ram_bytes if kind == "metal" else None)  # a CUDA card has memory of its own
    return Device(
        kind=kind,
        name=name,
        memory_bytes=memory,
        working_set_bytes=recommended or None,
        rounds_float32=rounds_float32(kind, info, macos),
    )


def rounds_float32(kind: Kind, info: Info, macos: str) -> bool:
    """True if MLX computes float32 products as TF32 by default: on CUDA, and on an M5 from macOS 26.2 on."""
    generation = re.fullmatch(r"applegpu_g(\d+)[a-z]", str(info.get("architecture", "")))
    if kind != "metal" or not generation:
        return kind == "cuda"
    version = tuple(int(part) for part in macos.split(".")[:2] if part.isdigit())
    return int(generation[1]) >= TF32_GENERATION and version >= TF32_SINCE


def require_exact_float32() -> None:
    """Have MLX compute float32 products in full. Without effect after MLX's first product."""
    os.environ[TF32_SWITCH] = "0"


def is_float32_exact() -> bool:
    """True if float32 products are computed in full on this device."""
    return not prepare().rounds_float32 or os.environ.get(TF32_SWITCH) == "0"


def wired_limit(info: Info, macos: str) -> int | None:
    """Bytes that MLX may keep wired: Metal's recommendation; None = do not set a limit.

    `macos`: the version, such as "15.6"; before 15 memory cannot be wired.
    """
    major = macos.split(".")[0]
    if not major.isdigit() or int(major) < WIRED_SINCE:
        return None
    return int(info.get("max_recommended_working_set_size") or 0) or None


def total_memory() -> int | None:
    """Memory in bytes that this process may use: that of the machine, or the limit of its container."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text() for path in map(Path, CGROUP_LIMITS) if path.is_file()]
    return usable_memory(physical, limits)


def usable_memory(physical: int, limits: list[str]) -> int | None:
    """The minimum of the physical memory and the numeric limits; None if the memory is unknown."""
    known = [int(text) for text in limits if text.strip().isdigit()]
    return min([physical, *known]) if physical > 0 else None


def memory_budget(device: Device) -> int | None:
    """Total bytes that this process may use; None if unknown.

    Metal: the recommended working set. CUDA card and CPU: the free memory plus that used by MLX already.
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
    """Bytes available without swapping, from Linux's /proc/meminfo; None if it does not say."""
    if not meminfo.is_file():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    kilobytes = fields.get("MemAvailable", "").split()
    return int(kilobytes[0]) * 1024 if kilobytes and kilobytes[0].isdigit() else None


def peak_memory_gb() -> float:
    """Peak memory of MLX's arrays since the last reset, in 10⁹ bytes."""
    import mlx.core as mx

    return mx.get_peak_memory() / 1e9


def past_the_gpu() -> AbstractContextManager[object]:
    """Compute on a Mac's CPU within the block, where the GPU may take no more commands: it shares the memory.

    No effect elsewhere: after a failure a CUDA card's memory cannot be read.
    """
    import mlx.core as mx

    return mx.stream(mx.cpu) if prepare().kind == "metal" else nullcontext()


def cache_memory() -> int:
    """Freed memory that MLX keeps for reuse, in bytes. The peak does not count it."""
    import mlx.core as mx

    return int(mx.get_cache_memory())


def clear_cache() -> None:
    """Return the freed memory that MLX keeps to the system."""
    import mlx.core as mx

    mx.clear_cache()


def set_cache_limit(limit: int) -> None:
    """Limit the freed memory that MLX keeps, in bytes."""
    import mlx.core as mx

    mx.set_cache_limit(limit)


def reset_peak_memory() -> None:
    """Reset the measurement of peak memory."""
    import mlx.core as mx

    mx.reset_peak_memory()
