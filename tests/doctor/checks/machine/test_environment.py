"""Installed packages and backends: on recorded machines, and on this one."""

import json
import sys
from pathlib import Path

import pytest

from grpo_cli.doctor.checks.machine.installing import floors, nvidia_driver, one_backend, wanted_extra
from grpo_cli.doctor.context import Context
from tests.support.machines import HEALTHY, NAMES, RecordedMachine, context_on, look, looks, told

PIP = "/home/ada/grpo-env/bin/python"
UV = f"uv pip install --python {PIP}"


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_machine_gets_no_warning(name: str) -> None:
    found = looks("environment", context_on(name))
    assert {finding.severity for finding in found.values()} == {"ok"}
    assert len(found) == 9


@pytest.mark.parametrize("name", NAMES)
def test_every_finding_is_data_and_every_trouble_has_a_command(name: str) -> None:
    found = looks("environment", context_on(name))
    json.dumps([finding.as_row() for finding in found.values()], allow_nan=False)
    for finding in found.values():
        assert finding.severity == "skipped" or finding.numbers
        assert finding.severity in ("ok", "skipped") or (finding.cure and finding.commands)


def test_this_machine() -> None:
    found = looks("environment", Context())
    assert {name: f.severity for name, f in found.items() if f.severity == "error"} == {}
    assert found["python"].numbers["executable"] == sys.executable
    assert found["mlx-backend"].numbers["right"] is True


def test_python_is_too_old() -> None:
    finding = look("python", context_on("linux_cpu", {"python": "3.10.12"}))
    assert told(finding) == (
        "error",
        "Python 3.10.12 (x86_64) in the environment /home/ada/grpo-env; 3.11 or newer is needed",
        (
            "uv venv --python 3.12 ~/grpo-env && . ~/grpo-env/bin/activate",
            "uv pip install '.[cpu]'   # in grpo's folder",
        ),
    )
    outside = look("python", context_on("linux_cpu", {"executable": "/usr/bin/python3"}))
    assert outside.seen == "Python 3.12.3 (x86_64) in no virtual environment (/usr/bin/python3)"


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("m1_macos14", "macOS 14.7.1, Apple M1"),
        ("m3max_macos26", "macOS 26.1, Apple M3 Max"),
        ("linux_cpu", "Ubuntu 24.04.1 LTS, AMD Ryzen 9 7950X 16-Core Processor, glibc 2.39"),
    ],
)
def test_the_system_is_named(name: str, seen: str) -> None:
    assert told(look("system", context_on(name))) == ("ok", seen, ())


def test_rosetta() -> None:
    finding = look("system", context_on("rosetta"))
    assert finding.severity == "error"
    assert finding.seen == (
        "macOS 15.6, Apple M3 Max, but this Python is built for Intel and runs through Rosetta"
    )
    assert finding.commands[0] == "arch -arm64 uv venv --python cpython-3.12-macos-aarch64 ~/grpo-env"


def test_an_intel_mac() -> None:
    intel = {"sysctl -n sysctl.proc_translated": None, "sysctl -n hw.optional.arm64": None}
    finding = look("system", context_on("rosetta", {"outputs": intel}))
    assert finding.severity == "error"
    assert finding.seen.endswith(": MLX needs an Apple chip (M1 or later)")


def test_an_old_macos() -> None:
    finding = look("system", context_on("m1_macos14", {"outputs": {"sw_vers -productVersion": "13.7"}}))
    assert told(finding)[:2] == ("error", "macOS 13.7, Apple M1; MLX needs macOS 14 or newer")
    silent = look("system", context_on("m1_macos14", {"outputs": {"sw_vers -productVersion": None}}))
    assert told(silent)[:2] == ("ok", "macOS of unknown version, Apple M1")


def test_an_old_or_another_c_library() -> None:
    finding = look("system", context_on("old_glibc"))
    assert finding.severity == "warning"
    assert finding.seen.endswith("glibc 2.31; MLX's current builds need glibc 2.35")
    assert look("system", context_on("linux_cpu", {"libc": ""})).severity == "warning"
    assert look("system", context_on("linux_cpu", {"libc": "glibc 2.35"})).severity == "ok"
    assert look("system", context_on("linux_cpu", {"system": "Windows"})).severity == "error"


def test_mlx_is_too_old_or_missing() -> None:
    assert told(look("mlx", context_on("old_glibc"))) == (
        "error",
        "mlx 0.29.3; 0.32.2 or newer is needed",
        (f"{UV} --upgrade 'mlx>=0.32.2'",),
    )
    missing = look("mlx-lm", context_on("linux_cpu", {"versions": {"mlx-lm": None}}))
    assert told(missing) == (
        "error",
        "mlx-lm is not installed: ModuleNotFoundError: No module named 'mlx_lm'",
        (f"{UV} --upgrade 'mlx-lm>=0.32.2'",),
    )


def test_an_old_mlx_lm_has_no_nanochat() -> None:
    context = context_on("old_mlx_lm")
    assert told(look("mlx-lm", context))[:2] == ("error", "mlx-lm 0.26.3; 0.32.2 or newer is needed")
    assert told(look("nanochat-import", context)) == (
        "error",
        "`from mlx_lm.models import nanochat` fails: ModuleNotFoundError: No module named "
        "'mlx_lm.models.nanochat'",
        (f"{UV} --force-reinstall 'mlx-lm>=0.32.2' transformers",),
    )
    assert look("mlx-backend", context).severity == "ok"  # MLX itself works


def test_without_uv_pip_is_called_by_its_own_python() -> None:
    finding = look("mlx-lm", context_on("m1_macos14", {"versions": {"mlx-lm": "0.20.0"}}))
    assert finding.commands == ("/Users/ada/grpo-env/bin/python -m pip install --upgrade 'mlx-lm>=0.32.2'",)


def test_in_a_clone_uv_sync_cures() -> None:
    clone = {"files": {"/home/ada/uv.lock": "version = 1\n"}, "versions": {"mlx-lm": None}}
    assert look("mlx-lm", context_on("linux_cpu", clone)).commands == ("uv sync --project /home/ada",)
    assert look("mlx-lm", context_on("linux_cuda", clone)).commands == (
        "uv sync --project /home/ada --no-group linux-cpu --extra cuda13",
    )


def test_two_backends() -> None:
    finding = look("two-backends", context_on("two_backends"))
    assert told(finding) == (
        "error",
        "mlx-cpu 0.32.4 and mlx-cuda-13 0.32.4 are installed together",
        (
            f"uv pip uninstall --python {PIP} mlx mlx-cpu mlx-cuda-13",
            f"{UV} --upgrade 'mlx[cpu]>=0.32.2'",
        ),
    )
    none = look("two-backends", context_on("linux_cpu", {"versions": {"mlx-cpu": None}}))
    assert none.severity == "error"
    assert none.seen.startswith("no backend of MLX is installed")


def test_the_backend_follows_the_driver() -> None:
    card = RecordedMachine("linux_cuda")
    assert (nvidia_driver(card), wanted_extra(card)) == ("580.95.05", "cuda13")
    old = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024"
    older = RecordedMachine("linux_cuda", files={"/proc/driver/nvidia/version": old})
    assert (nvidia_driver(older), wanted_extra(older)) == ("550.54.14", "cuda12")
    assert wanted_extra(RecordedMachine("linux_cpu")) == "cpu"
    assert one_backend(RecordedMachine("m3max_macos15"))[1].endswith("--upgrade 'mlx>=0.32.2'")


def test_cuda_packages_without_a_driver() -> None:
    finding = look("mlx-backend", context_on("cuda_without_driver"))
    assert finding.severity == "error"
    assert finding.seen == (
        "import mlx fails: ImportError: libcuda.so.1: cannot open shared object file: No such file or "
        "directory; mlx-cuda-13 is installed, and no NVIDIA driver is loaded"
    )
    assert finding.commands[-1] == f"{UV} --upgrade 'mlx[cpu]>=0.32.2'"


@pytest.mark.parametrize(
    ("error", "stage", "command"),
    [
        ("ImportError: libmlx.so: cannot open", "import mlx", f"{UV} --upgrade 'mlx[cpu]>=0.32.2'"),
        ("killed by signal 4 (SIGILL)", "product", "export GRPO_FAST_BLAS=0"),
        ("ConfigError: Device not available: GRPO_DEVICE=cuda\n\nhint: x", "device", "unset GRPO_DEVICE"),
        ("not finished after 120 s", "start", f"{PIP} -m grpo_cli.doctor.read.probe"),
    ],
)
def test_what_keeps_mlx_from_computing(error: str, stage: str, command: str) -> None:
    answers = {"failed": stage, "error": error, "product_right": None, "device": None, "nanochat": None}
    finding = look("mlx-backend", context_on("linux_cpu", {"probe": answers}))
    assert (finding.severity, finding.commands[-1]) == ("error", command)
    assert finding.seen == f"{stage} fails: {error}".split("\n")[0]


def test_a_wrong_product_is_an_error() -> None:
    finding = look("mlx-backend", context_on("linux_cpu", {"probe": {"product_right": False}}))
    assert finding.severity == "error"
    assert finding.seen.endswith(": a product of ones is wrong")


def test_a_card_that_is_not_used() -> None:
    driver = RecordedMachine("linux_cuda").text("/proc/driver/nvidia/version")
    changes = {"files": {"/proc/driver/nvidia/version": driver}}
    finding = look("mlx-backend", context_on("linux_cpu", changes))
    assert finding.severity == "warning"
    assert finding.seen.endswith("though there is an NVIDIA card (driver 580.95.05)")
    assert finding.commands[-1] == f"{UV} --upgrade 'mlx[cuda13]>=0.32.2'"
    wanted = {**changes, "environment": {"GRPO_DEVICE": "cpu"}}
    assert look("mlx-backend", context_on("linux_cpu", wanted)).severity == "ok"


def test_packages_that_are_missing_or_old_and_the_one_line() -> None:
    versions = {"tiktoken": None, "transformers": "4.57.1", "jinja2": None}
    finding = look("packages", context_on("linux_cpu", {"versions": versions}))
    assert told(finding) == (
        "error",
        "tiktoken is not installed, transformers 4.57.1 (5.7.0 or newer is needed), jinja2 is not installed",
        (f"{UV} --upgrade 'tiktoken>=0.9' 'transformers>=5.7.0' jinja2",),
    )


def test_floors_come_from_what_is_installed() -> None:
    machine = RecordedMachine("linux_cpu", requirements={"grpo-cli": ["mlx-lm>=0.40,<1", "numpy (>=2)"]})
    assert floors(machine, "grpo-cli") == {"mlx-lm": "0.40", "numpy": "2"}
    assert look("mlx-lm", Context(machine=machine)).seen == "mlx-lm 0.32.2; 0.40 or newer is needed"
    bare = RecordedMachine("linux_cpu", requirements=None)
    assert look("mlx-lm", Context(machine=bare)).seen == "mlx-lm 0.32.2 (0.32.2 or newer is needed)"


def test_the_compiler() -> None:
    assert look("compiler", context_on("linux_cpu")).seen == (
        "compilation is switched off on a CPU: no C++ compiler is called"
    )
    assert look("compiler", context_on("linux_cuda")).seen.endswith("not g++; kernels are kept in /tmp")
    full = {"refusal": "No space left on device", "environment": {"MLX_PTX_CACHE_DIR": "/cache"}}
    finding = look("compiler", context_on("linux_cuda", full))
    assert told(finding)[:2] == (
        "warning",
        "compiled kernels cannot be kept in /cache: No space left on device",
    )
    assert look("compiler", context_on("rosetta")).severity == "skipped"


# --- the probe -----------------------------------------------------------------------------------


def test_a_broken_mlx_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: an mlx that aborts is found before the installed one."""
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx/__init__.py").write_text("")
    (tmp_path / "mlx/core.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = look("mlx-backend", Context())
    assert finding.severity == "error"
    assert finding.seen == "import mlx fails: killed by signal 6 (SIGABRT)"
    (tmp_path / "mlx/core.py").write_text("raise ImportError('libmlx.so: cannot open')\n")
    assert look("mlx-backend", Context()).seen == "import mlx fails: ImportError: libmlx.so: cannot open"
    assert look("matrix-product", Context()).severity == "skipped"
