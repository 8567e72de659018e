"""Machines that were recorded: what their commands printed and what their files said, as JSON.

    context_on("m1_macos14").machine.output("sw_vers", "-productVersion")     # "14.7.1"

The Linux CPU is of the kind the tests run on; the others are written from the formats that their systems
document and that their owners have published.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.read.machine import Attempt, Machine
from grpo_cli.doctor.run import diagnose
from grpo_cli.doctor.table import CHECKS

HERE = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.json")))
HEALTHY = ("linux_cpu", "linux_cuda", "m1_macos14", "m3max_macos15", "m3max_macos26")


class RecordedMachine(Machine):
    """A machine that answers from a record; keyword arguments replace or add parts of it.

    A part that is a table (outputs, files, versions, environment, probe) is added to; a value of None
    takes an entry away.
    """

    def __init__(self, name: str, **changes: Any) -> None:
        self.record: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
        for part, change in changes.items():
            old = self.record.get(part)
            if isinstance(old, dict) and isinstance(change, dict):
                change = {key: value for key, value in (old | change).items() if value is not None}
            self.record[part] = change

    def of(self, part: str) -> dict[str, Any]:
        """A part that is a table; empty where it was not recorded."""
        found = self.record.get(part)
        return found if isinstance(found, dict) else {}

    @property
    def system(self) -> str:
        return str(self.record["system"])

    @property
    def architecture(self) -> str:
        return str(self.record["architecture"])

    @property
    def python(self) -> str:
        return str(self.record["python"])

    @property
    def libc(self) -> str:
        return str(self.record["libc"])

    @property
    def environment(self) -> Mapping[str, str]:
        return self.of("environment")

    @property
    def executable(self) -> str:
        return str(self.record["executable"])

    def output(self, *command: str) -> str | None:
        return self.of("outputs").get(" ".join(command))

    def attempt(self, *command: str, seconds: float) -> Attempt:  # noqa: ARG002
        """By the first recorded words that stand in the command: [code, output, complaint]."""
        line = " ".join(command)
        found = (how for words, how in self.of("attempts").items() if words in line)
        return Attempt(*next(found, [127, "", f"{command[0]}: No such file or directory"]))

    def text(self, path: str) -> str | None:
        return self.of("files").get(path)

    def names(self, folder: str) -> list[str]:
        return list(self.of("folders").get(folder, []))

    def which(self, program: str) -> str | None:
        return self.of("programs").get(program)

    def version(self, package: str) -> str | None:
        return self.of("versions").get(package)

    def requirements(self, package: str) -> list[str]:
        return list(self.of("requirements").get(package, []))

    def refusal(self, folder: Path) -> str:  # noqa: ARG002
        return str(self.record.get("refusal", ""))

    def free_bytes(self, folder: Path) -> int | None:  # noqa: ARG002
        return self.record["free"]

    def memory_bytes(self) -> int | None:
        return self.record["memory"]

    def reach(self, url: str) -> str:  # noqa: ARG002
        return str(self.record.get("reach", ""))

    def probe(self) -> dict[str, Any]:
        return dict(self.record["probe"])


def context_on(name: str, changes: Mapping[str, Any] | None = None, **named: Any) -> Context:
    """A context on a recorded machine; `named`: what the command line names."""
    return Context(machine=RecordedMachine(name, **(changes or {})), **named)


def look(check: str, context: Context) -> Finding:
    """The one finding of a check."""
    (finding,) = diagnose(context, [each for each in CHECKS if each.name == check])
    assert "check itself failed" not in finding.seen
    return finding


def looks(
    subject: str, context: Context, keep: Callable[[Finding], bool] = lambda _: True
) -> dict[str, Finding]:
    """The findings of a subject's checks by name."""
    found = list(diagnose(context, [each for each in CHECKS if each.subject == subject]))
    assert not [finding for finding in found if "check itself failed" in finding.seen]
    return {finding.name: finding for finding in found if keep(finding)}


def told(finding: Finding) -> tuple[str, str, tuple[str, ...]]:
    """Severity, text and commands."""
    return finding.severity, finding.seen, finding.commands
