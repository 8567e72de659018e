"""Diagnosis of MLX on this machine, from its probe's answers and the installed packages.

verdict(context).seen      # "MLX 0.32.4 on the CPU (AMD EPYC): test matmul correct"
"""

from grpo_cli.doctor.checks.machine.installing import BACKEND_PACKAGES, install, nvidia_driver, one_backend
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, warning
from grpo_cli.doctor.read.machine import Machine

DEVICES = {"cpu": "the CPU", "metal": "Metal", "cuda": "CUDA"}
NO_DRIVER = ("libcuda.so", "libnvidia", "no cuda-capable device", "driver version is insufficient")


def verdict(context: Context) -> Finding:
    """The finding for MLX: its test matmul is correct, wrong, or cannot be computed."""
    probe = context.probe
    if "product_right" not in probe:
        return broken(context.machine, str(probe.get("failed", "start")), str(probe.get("error", "")))
    kind = str(probe.get("device", "cpu"))
    seen = f"MLX {probe.get('mlx')} on {DEVICES.get(kind, kind)} ({probe.get('device_name')})"
    numbers = {"device": kind, "mlx": probe.get("mlx"), "right": bool(probe["product_right"])}
    if not probe["product_right"]:
        return error(
            f"{seen}: a product of ones is wrong",
            "reinstall MLX; on a Linux CPU also try its own slow matrix product: the replacement may be "
            "broken",
            *one_backend(context.machine),
            *(["export GRPO_FAST_BLAS=0"] if kind == "cpu" and context.machine.system == "Linux" else []),
            **numbers,
        )
    if kind == "cpu" and not context.machine.environment.get("GRPO_DEVICE"):
        return on_cpu(context.machine, seen, numbers)
    return ok(f"{seen}: test matmul correct", **numbers)


def on_cpu(machine: Machine, seen: str, numbers: dict[str, object]) -> Finding:
    """The finding for a CPU that was not asked for: a warning if the machine has a GPU."""
    driver = nvidia_driver(machine)
    if driver is not None:
        return warning(
            f"{seen}, though there is an NVIDIA card (driver {driver})",
            "install MLX's backend for it",
            *one_backend(machine),
            driver=driver,
            **numbers,
        )
    if machine.system == "Darwin":
        return warning(
            f"{seen}: Metal is not available",
            "a virtual machine has no Metal: run grpo on the Mac itself; otherwise reinstall MLX",
            *install(machine, "mlx", again=True),
            **numbers,
        )
    return ok(f"{seen}: test matmul correct", **numbers)


def broken(machine: Machine, stage: str, said: str) -> Finding:
    """The error for MLX that fails before its test matmul. `stage`: the probe's; `said`: its error text."""
    seen = f"{stage} fails: {said}"
    numbers = {"failed": stage, "error": said}
    present = [name for name in BACKEND_PACKAGES if machine.version(name)]
    if "Device not available" in said:
        return error(seen.splitlines()[0], "let grpo choose the device", "unset GRPO_DEVICE", **numbers)
    if any(name.startswith("mlx-cuda") for name in present) and is_without_driver(machine, said):
        return error(
            f"{seen}; {', '.join(present)} is installed, and no NVIDIA driver is loaded",
            "load the card's driver (`nvidia-smi` shows it; a container needs `--gpus all`), or install "
            "the CPU backend",
            *one_backend(machine),
            **numbers,
        )
    if "signal" in said:
        return error(
            seen,
            "reinstall MLX for this processor"
            + ("; if that does not help, switch off the faster BLAS" if machine.system == "Linux" else ""),
            *one_backend(machine),
            *(["export GRPO_FAST_BLAS=0"] if machine.system == "Linux" else []),
            **numbers,
        )
    if stage == "start":
        return error(
            seen,
            "see what this Python reports",
            f"{machine.executable} -m grpo_cli.doctor.read.probe",
            **numbers,
        )
    what = (
        "one backend fits this machine" if present else "no backend is installed: install the one that fits"
    )
    return error(seen, f"reinstall MLX; {what}", *one_backend(machine), **numbers)


def is_without_driver(machine: Machine, said: str) -> bool:
    """True if CUDA fails because no NVIDIA driver is loaded."""
    return nvidia_driver(machine) is None or any(text in said.lower() for text in NO_DRIVER)
