"""Checks of what is installed: Python, the system, MLX, mlx-lm, packages and the compiler."""

import re
from collections.abc import Iterator
from pathlib import Path

from grpo_cli.doctor.checks.machine import backend
from grpo_cli.doctor.checks.machine.installing import (
    BACKEND_PACKAGES,
    environment_folder,
    floors,
    install,
    one_backend,
    virtual_environment,
)
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.machine import Machine
from grpo_cli.doctor.read.versions import is_older, release
from grpo_cli.foreign_text import quoted

LEAST_PYTHON = "3.11"
LEAST_MACOS = "14.0"
LEAST_GLIBC = "2.35"
# Used if the program's own requirements cannot be read. None: any version.
FLOORS: dict[str, str | None] = {
    "tiktoken": "0.9",
    "tokenizers": "0.21",
    "transformers": "5.7.0",
    "datasets": "3.2",
    "huggingface-hub": "1.0",
    "numpy": "1.26",
    "pydantic": "2.9",
    "safetensors": None,
    "jinja2": None,
    "sentencepiece": None,
}
LEAST_MLX = {"mlx": "0.32.2", "mlx-lm": "0.32.2"}


def python(context: Context) -> Iterator[Finding]:
    """Python's version and the environment it runs in."""
    machine = context.machine
    is_virtual = virtual_environment(machine) is not None
    where = (
        f"the environment {environment_folder(machine)}"
        if is_virtual
        else f"no virtual environment ({machine.executable})"
    )
    seen = f"Python {machine.python} ({machine.architecture}) in {where}"
    numbers = {"version": machine.python, "executable": machine.executable, "virtual": is_virtual}
    if is_older(machine.python, LEAST_PYTHON):
        yield error(
            f"{seen}; {LEAST_PYTHON} or newer is needed",
            "make an environment with a newer Python, and install into it",
            "uv venv --python 3.12 ~/grpo-env && . ~/grpo-env/bin/activate",
            "uv pip install " + ("." if machine.system == "Darwin" else "'.[cpu]'") + "   # in grpo's folder",
            **numbers,
        )
    else:
        yield ok(seen, **numbers)


def system(context: Context) -> Iterator[Finding]:
    """Operating system, chip, and the C library on Linux."""
    if context.machine.system == "Darwin":
        yield macos(context.machine)
    elif context.machine.system == "Linux":
        yield linux(context.machine)
    else:
        yield error(
            f"{context.machine.system} {context.machine.architecture}: MLX has no build for it",
            "run grpo on macOS or Linux; on Windows, use the Linux subsystem",
            "wsl --install",
            system=context.machine.system,
        )


def macos(machine: Machine) -> Finding:
    """The finding for a Mac: it needs an Apple chip, a Python that avoids Rosetta, and a recent macOS."""
    version = machine.output("sw_vers", "-productVersion") or "of unknown version"
    chip = machine.output("sysctl", "-n", "machdep.cpu.brand_string") or "unknown chip"
    seen = f"macOS {version}, {chip}"
    numbers = {"system": "macOS", "version": version, "chip": chip}
    if machine.architecture == "x86_64" and is_apple_chip(machine):
        return error(
            f"{seen}, but this Python is built for Intel and runs through Rosetta",
            "make an environment with a Python for Apple chips, from a terminal that does not use Rosetta",
            "arch -arm64 uv venv --python cpython-3.12-macos-aarch64 ~/grpo-env",
            "arch -arm64 uv pip install --python ~/grpo-env/bin/python .   # in grpo's folder",
            rosetta=True,
            **numbers,
        )
    if machine.architecture == "x86_64":
        return error(
            f"{seen}: MLX needs an Apple chip (M1 or later)",
            "run grpo on a Mac with an Apple chip, or under Linux",
            "docker run -it -v .:/grpo -w /grpo python:3.12-bookworm bash   # then: pip install '.[cpu]'",
            **numbers,
        )
    if release(version) and is_older(version, LEAST_MACOS):
        return error(
            f"{seen}; MLX needs macOS 14 or newer",
            "update macOS in its System Settings, or with",
            "softwareupdate --list",
            "sudo softwareupdate --install --all --restart",
            **numbers,
        )
    return ok(seen, **numbers)


def is_apple_chip(machine: Machine) -> bool:
    """True if the chip is Apple's, even if this Python was built for Intel."""
    translated = machine.output("sysctl", "-n", "sysctl.proc_translated")
    return translated == "1" or machine.output("sysctl", "-n", "hw.optional.arm64") == "1"


def linux(machine: Machine) -> Finding:
    """The finding for Linux: distribution, processor and C library."""
    told = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.text("/etc/os-release") or "", re.MULTILINE)
    name = told[1] if told else "Linux"
    model = re.search(r"^model name\s*:\s*(.+)", machine.text("/proc/cpuinfo") or "", re.MULTILINE)
    chip = model[1].strip() if model else machine.architecture
    version = machine.libc.removeprefix("glibc").strip()
    seen = f"{name}, {chip}, {machine.libc or 'a C library other than glibc'}"
    numbers = {"system": name, "chip": chip, "glibc": version or None}
    if not version or is_older(version, LEAST_GLIBC):
        return warning(
            f"{seen}; MLX's current builds need glibc {LEAST_GLIBC}",
            "use a newer distribution (Ubuntu 22.04, Debian 12, Fedora 36), in a container too",
            "docker run -it -v .:/grpo -w /grpo python:3.12-bookworm bash   # then: pip install '.[cpu]'",
            **numbers,
        )
    return ok(seen, **numbers)


def mlx_version(context: Context) -> Iterator[Finding]:
    """mlx is installed and new enough."""
    yield installed(context.machine, "mlx")


def mlx_lm_version(context: Context) -> Iterator[Finding]:
    """mlx-lm is installed and new enough."""
    yield installed(context.machine, "mlx-lm")


def installed(machine: Machine, package: str) -> Finding:
    """The finding for mlx or mlx-lm: missing, too old, or a version that this program works with."""
    version = machine.version(package)
    floor = floors(machine, "grpo-cli").get(package, LEAST_MLX[package])
    numbers = {"version": version, "floor": floor}
    if version is None:
        module = package.replace("-", "_")
        return error(
            f"{package} is not installed: ModuleNotFoundError: No module named '{module}'",
            f"install it into this environment ({machine.executable})",
            *install(machine, f"{package}>={floor}"),
            **numbers,
        )
    if is_older(version, floor):
        return error(
            f"{package} {version}; {floor} or newer is needed",
            "upgrade it; if pip finds no newer one, `grpo doctor --only system` says why",
            *install(machine, f"{package}>={floor}"),
            **numbers,
        )
    return ok(f"{package} {version} ({floor} or newer is needed)", **numbers)


def two_backends(context: Context) -> Iterator[Finding]:
    """At most one backend of MLX is installed."""
    present = {name: version for name in BACKEND_PACKAGES if (version := context.machine.version(name))}
    told = " and ".join(f"{name} {version}" for name, version in present.items())
    if len(present) > 1:
        yield error(
            f"{told} are installed together",
            "remove them all and install the one that fits this machine",
            *one_backend(context.machine),
            backends=present,
        )
    elif not present and context.machine.system == "Linux":
        yield error(
            "no backend of MLX is installed: plain `pip install mlx` installs none on Linux",
            "install the one that fits this machine",
            *one_backend(context.machine),
            backends=present,
        )
    else:
        yield ok(told or "MLX's own", backends=present)


def mlx_backend(context: Context) -> Iterator[Finding]:
    """MLX computes a matrix product correctly."""
    yield backend.verdict(context)


def nanochat_import(context: Context) -> Iterator[Finding]:
    """mlx-lm's nanochat can be imported."""
    probe = context.probe
    if probe.get("nanochat"):
        yield ok("`from mlx_lm.models import nanochat` works", imported=True)
    elif probe.get("failed") != "import mlx_lm":
        yield skipped("MLX does not work here")
    else:
        floor = floors(context.machine, "grpo-cli").get("mlx-lm", LEAST_MLX["mlx-lm"])
        version = context.machine.version("mlx-lm")
        yield error(
            f"`from mlx_lm.models import nanochat` fails: {probe.get('error', '')}",
            f"reinstall mlx-lm ({version or 'none'} is installed) with its dependencies",
            *install(context.machine, f"mlx-lm>={floor}", "transformers", again=True),
            imported=False,
            version=version,
        )


def packages(context: Context) -> Iterator[Finding]:
    """tiktoken, tokenizers, transformers, datasets and other packages are new enough."""
    machine = context.machine
    least = FLOORS | floors(machine, "mlx-lm") | floors(machine, "grpo-cli")
    versions = {name: machine.version(name) for name in FLOORS}
    wrong = {name: version for name, version in versions.items() if is_wrong(version, least[name])}
    if not wrong:
        yield ok(", ".join(f"{name} {version}" for name, version in versions.items()), versions=versions)
        return
    told = [
        f"{name} {version or 'is not installed'}"
        + (f" ({least[name]} or newer is needed)" if version and least[name] else "")
        for name, version in wrong.items()
    ]
    wanted = [f"{name}>={least[name]}" if least[name] else name for name in wrong]
    yield error(", ".join(told), "upgrade them", *install(machine, *wanted), versions=versions)


def is_wrong(version: str | None, floor: str | None) -> bool:
    """True if a package is missing or too old."""
    return version is None or (floor is not None and is_older(version, floor))


def compiler(context: Context) -> Iterator[Finding]:
    """The compiler that MLX uses, and the folder for its compiled kernels."""
    kind = context.probe.get("device")
    if kind is None:
        yield skipped("MLX does not work here")
    elif kind == "cpu":
        yield ok("compilation is switched off on a CPU: no C++ compiler is called", needed=False)
    elif kind == "metal":
        yield ok("Metal compiles by itself: no compiler to install", needed=False)
    else:
        yield cuda_cache(context.machine)


def cuda_cache(machine: Machine) -> Finding:
    """The finding for the folder that caches CUDA kernels. CUDA's compiler itself comes with MLX."""
    named = machine.environment.get("MLX_PTX_CACHE_DIR")
    folder = Path(named or machine.environment.get("TMPDIR") or "/tmp")
    refusal = machine.refusal(folder)
    if refusal:
        return warning(
            f"compiled kernels cannot be kept in {folder}: {refusal}",
            "choose a writable folder",
            "mkdir -p ~/.cache/mlx && export MLX_PTX_CACHE_DIR=~/.cache/mlx",
            folder=str(folder),
        )
    return ok(
        f"CUDA's own compiler is used, not g++; kernels are kept in {quoted(folder)}",
        folder=str(folder),
    )
