"""Commands that install packages here, in the form that suits this environment: uv, pip or `uv sync`.

install(context.machine, "mlx-lm>=0.32.2")
# ["/home/ada/.venv/bin/python -m pip install --upgrade 'mlx-lm>=0.32.2'"]
"""

import re
from pathlib import Path

from grpo_cli.doctor.read.machine import Machine
from grpo_cli.doctor.read.versions import release
from grpo_cli.foreign_text import quoted

BACKEND_PACKAGES = ("mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "mlx-cuda", "mlx-metal")
EXTRAS = {"mlx-cpu": "cpu", "mlx-cuda-12": "cuda12", "mlx-cuda-13": "cuda13", "mlx-cuda": "cuda12"}
CUDA13_DRIVER = 580  # the first driver that runs CUDA 13


def floors(machine: Machine, package: str) -> dict[str, str]:
    """Minimum versions of an installed package's requirements, by name; extras are left out."""
    found = {}
    for requirement in machine.requirements(package):
        match = re.match(r"([\w.-]+)(?:\[[\w,-]*\])?[^;]*?>=\s*([\w.]+)", requirement)
        if match and "extra ==" not in requirement:
            found[match[1].lower().replace("_", "-")] = match[2]
    return found


def environment_folder(machine: Machine) -> Path:
    """The folder of the virtual environment, if Python runs in one."""
    return Path(machine.executable).parent.parent


def virtual_environment(machine: Machine) -> str | None:
    """The text of pyvenv.cfg; None outside a virtual environment."""
    return machine.text(str(environment_folder(machine) / "pyvenv.cfg"))


def is_clone(machine: Machine) -> bool:
    """True for a uv project with a lock file: `uv run` undoes changes made in other ways."""
    return machine.text(str(environment_folder(machine).parent / "uv.lock")) is not None


def installer(machine: Machine) -> str:
    """The command that installs into this environment: `uv pip` or `PYTHON -m pip`."""
    python = quoted(machine.executable)
    made_by_uv = re.search(r"^uv\s*=", virtual_environment(machine) or "", re.MULTILINE)
    return "uv pip" if made_by_uv else f"{python} -m pip"


def into(machine: Machine) -> str:
    """The option that names the environment to uv; empty for pip, which its own Python runs."""
    return f" --python {quoted(machine.executable)}" if installer(machine) == "uv pip" else ""


def install(machine: Machine, *requirements: str, again: bool = False) -> list[str]:
    """The command that upgrades packages; `again`: reinstalls them even if they look installed."""
    if is_clone(machine):
        return [sync(machine, again)]
    wanted = " ".join(quoted(requirement) for requirement in requirements)
    how = "--force-reinstall" if again else "--upgrade"
    return [f"{installer(machine)} install{into(machine)} {how} {wanted}"]


def sync(machine: Machine, again: bool = False) -> str:
    """The command that syncs a clone's environment to its lock file, with this machine's backend."""
    folder = quoted(str(environment_folder(machine).parent))
    extra = wanted_extra(machine)
    backend = f" --no-group linux-cpu --extra {extra}" if extra.startswith("cuda") else ""
    return f"uv sync --project {folder}{backend}{' --reinstall' if again else ''}"


def one_backend(machine: Machine) -> list[str]:
    """The commands that leave exactly one backend installed: the one that fits this machine."""
    extra = wanted_extra(machine)
    if is_clone(machine):
        return [sync(machine, again=True)]
    present = [package for package in BACKEND_PACKAGES if machine.version(package)]
    yes = "" if installer(machine) == "uv pip" else " -y"
    remove = f"{installer(machine)} uninstall{into(machine)}{yes} mlx {' '.join(present)}".rstrip()
    floor = floors(machine, "grpo-cli").get("mlx", "0.32.2")
    return [remove, *install(machine, f"mlx[{extra}]>={floor}" if extra else f"mlx>={floor}")]


def wanted_extra(machine: Machine) -> str:
    """The extra of MLX for this machine: empty on a Mac; on Linux it depends on the NVIDIA driver."""
    if machine.system == "Darwin":
        return ""
    driver = nvidia_driver(machine)
    if driver is None:
        return "cpu"
    return "cuda13" if release(driver) >= (CUDA13_DRIVER,) else "cuda12"


def nvidia_driver(machine: Machine) -> str | None:
    """Version of the loaded NVIDIA driver; None without one."""
    told = machine.text("/proc/driver/nvidia/version")
    match = re.search(r"Kernel Module.*?\s(\d+\.\d[\d.]*)\s", told or "")
    return match[1] if match else None
