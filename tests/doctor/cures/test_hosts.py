"""Cures of a host file, applied to recorded hosts: what is written into the file and installed over ssh."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from grpo_cli.doctor.findings import Finding
from tests.support.doctor_cures import Cure, cases_of
from tests.support.doctor_findings import look
from tests.support.recorded_hosts import CABLES, CUDA, HOSTS, LINUX, MAC, RING, VERSIONS, alike, context, says

MISSING = [{"ssh": "one"}, {"ssh": "two"}]


def at(check: str, attempts: dict[str, list[Any]], document: Any = None, **named: Any) -> list[Finding]:
    return look(context(Path.cwd(), attempts, document, **named), check)


def named_backend(finding: Finding) -> str:
    """The backend that the cure says to write into the file."""
    found = re.search(r'write `"backend": "([\w-]+)"` into ', finding.cure)
    assert found
    return found[1]


def other_versions() -> Cure:
    old = {**LINUX, "versions": {**VERSIONS, "mlx": "0.31.0", "tokenizers": "0.20.0"}}
    finding = yield lambda: at("host-versions", alike(LINUX, old))
    (line,) = finding.commands
    words = shlex.split(line)
    assert words[:2] == ["ssh", "two"]
    asked = [Requirement(word) for word in shlex.split(words[2]) if "==" in word]
    installed = {wanted.name: str(wanted.specifier).removeprefix("==") for wanted in asked}
    new = {**LINUX, "versions": {**old["versions"], **installed}}
    yield lambda: at("host-versions", alike(LINUX, new))


def address_of_another_machine() -> Cure:
    attempts = {" one sh -c": says(LINUX, addresses={"10.0.0.9": False})}
    document = [{"ssh": "one", "ips": ["10.0.0.9"]}]
    finding = yield lambda: at("hosts", attempts, document)
    assert finding.commands == ("ip -brief address",)  # shows 10.0.0.1
    yield lambda: at("hosts", {" one sh -c": says(LINUX, "10.0.0.1")}, [HOSTS[0]])


def hosts_without_addresses() -> Cure:
    finding = yield lambda: at("ring", alike(LINUX), MISSING)
    line = shlex.split(finding.commands[0])
    Path(line[-1]).write_text(json.dumps(HOSTS))  # as mlx.distributed_config writes it
    yield lambda: at("ring", alike(LINUX), json.loads(Path(line[-1]).read_text()))


def launcher_that_is_missing() -> Cure:
    at_home = context(Path.cwd(), alike(LINUX))
    at_home.machine.record["programs"] = {}  # type: ignore[attr-defined]
    finding = yield lambda: look(at_home, "ring")
    assert finding.cure == "reinstall MLX's package"
    yield lambda: at("ring", alike(LINUX))  # it brings mlx.launch


def ports_in_use() -> Cure:
    failed = json.dumps({"failed": "Rank 1 cannot listen: Address already in use", "rank": 1})
    attempts = alike(LINUX) | {"mlx.launch": [0, failed, ""]}
    free = {"--starting-port 42323": [0, json.dumps({"ring": RING}), ""]}
    finding = yield lambda: at("ring", free | attempts)
    words = shlex.split(finding.commands[0])
    port = int(words[words.index("--starting-port") + 1])
    yield lambda: at("ring", free | attempts, starting_port=port)


def no_backend_connects_them() -> Cure:
    finding = yield lambda: at("backend-to-use", alike(LINUX), MISSING)
    assert finding.cure == "complete the file"
    assert "ring: the file has no `ips` for one, two" in finding.seen
    yield lambda: at("backend-to-use", alike(LINUX), HOSTS)


def backend_that_we_do_not_run_on() -> Cure:
    finding = yield lambda: at("backend-to-use", alike(LINUX), {"backend": "mpi", "hosts": HOSTS})
    written = {"backend": named_backend(finding), "hosts": HOSTS}
    yield lambda: at("backend-to-use", alike(LINUX), written)


def backend_that_cannot_work() -> Cure:
    attempts = alike(CUDA, LINUX)
    finding = yield lambda: at("backend-to-use", attempts, {"backend": "nccl", "hosts": HOSTS})
    written = {"backend": named_backend(finding), "hosts": HOSTS}
    yield lambda: at("backend-to-use", attempts, written)


def slower_backend_than_there_is() -> Cure:
    attempts = alike(MAC, MAC)
    finding = yield lambda: at("backend-to-use", attempts, CABLES, kind="m3max_macos26")
    written = {"backend": named_backend(finding), "hosts": CABLES}
    yield lambda: at("backend-to-use", attempts, written, kind="m3max_macos26")


test_a_cure_cures = cases_of(globals())
