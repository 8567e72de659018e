"""What a printed command does to a recorded machine: packages, variables, the GPU's limit on a Mac.

after = enacted(finding, "linux_cpu", {"versions": {"mlx-lm": None}})     # its commands, in their order
"""

import copy
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from tests.support.doctor_cures import run_shell
from tests.support.machines import RecordedMachine

BACKENDS = {"cpu": "mlx-cpu", "cuda12": "mlx-cuda-12", "cuda13": "mlx-cuda-13"}  # by the extra of mlx
NEWEST = {"linux_cpu": "linux_cpu", "cuda": "linux_cuda", "mac": "m3max_macos15"}
MIB = 1 << 20


def enacted(finding: Finding, name: str, changes: Mapping[str, Any], **named: Any) -> Context:
    """A context on the recorded machine after all of the finding's commands."""
    machine = RecordedMachine(name, **changes)
    machine.record = copy.deepcopy(machine.record)
    for line in finding.commands:
        enact(machine, line)
    return Context(machine=machine, **named)


def enact(machine: RecordedMachine, line: str) -> None:
    """One command. AssertionError for one that is not known here."""
    if limit := re.fullmatch(r"sudo sysctl iogpu\.wired_limit_mb=(\d+)", line):
        machine.record["outputs"]["sysctl -n iogpu.wired_limit_mb"] = limit[1]
        machine.record["probe"]["info"]["max_recommended_working_set_size"] = int(limit[1]) * MIB
    elif re.search(r"\b(unset|export) ", line):
        machine.record["environment"] = run_shell(line, **machine.environment)
    else:
        words = shlex.split(line)
        assert machine.executable in words  # installs into the Python that the doctor looked at
        packages = [word for word in words[1:] if not word.startswith("-") and "/" not in word]
        if "uninstall" in words:
            remove(machine, packages[packages.index("uninstall") + 1 :])
        else:
            install(machine, packages[packages.index("install") + 1 :])


def remove(machine: RecordedMachine, packages: Sequence[str]) -> None:
    for package in packages:
        machine.record["versions"].pop(package, None)
    works_or_not(machine)


def install(machine: RecordedMachine, packages: Sequence[str]) -> None:
    """The newest versions of some requirements, as a healthy machine has them, with what they bring."""
    versions = machine.record["versions"]
    known = {**RecordedMachine("linux_cpu").of("versions"), "mlx-metal": "0.32.4"}
    for text in packages:
        wanted = Requirement(text)
        assert wanted.specifier.contains(known[wanted.name]), text
        versions[wanted.name] = known[wanted.name]
        brought = [BACKENDS[extra] for extra in wanted.extras]
        brought += ["mlx-metal"] if wanted.name == "mlx" and machine.system == "Darwin" else []
        versions |= dict.fromkeys(brought, known["mlx"])
    works_or_not(machine)


def works_or_not(machine: RecordedMachine) -> None:
    """MLX's answers: right with one backend that suits the machine, as on a healthy one; else an error."""
    present = {name for name in (*BACKENDS.values(), "mlx-metal") if machine.version(name)}
    driver = machine.text("/proc/driver/nvidia/version") is not None
    suits = (
        {"mlx-metal"} if machine.system == "Darwin" else {"mlx-cpu"} | ({"mlx-cuda-13"} if driver else set())
    )
    if len(present) != 1 or not present <= suits or not machine.version("mlx"):
        machine.record["probe"] = {"failed": "import mlx", "error": "ImportError: libmlx.so"}
        return
    kind = {"mlx-metal": "mac", "mlx-cpu": "linux_cpu", "mlx-cuda-13": "cuda"}[present.pop()]
    machine.record["probe"] = RecordedMachine(NEWEST[kind]).probe()


class TwoDisks(RecordedMachine):
    """A recorded machine whose folder `other` lies on a roomy disk."""

    def free_bytes(self, folder: Path) -> int | None:
        return 400 * 10**9 if "other" in folder.parts else super().free_bytes(folder)
