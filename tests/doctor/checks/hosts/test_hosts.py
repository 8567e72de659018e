"""Several machines: what is found where they are reached, and where they are not."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.read.machine import Attempt, Machine
from tests.support.doctor_findings import look as find
from tests.support.machines import look, told
from tests.support.recorded_hosts import CUDA, HOSTS, LINUX, MAC, PYTHON, VERSIONS, alike, context, says


def only(found: list[Finding], severity: str) -> Finding:
    (finding,) = [one for one in found if one.severity == severity]
    return finding


def trouble(tmp_path: Path, *how: Any, **named: Any) -> tuple[str, str, tuple[str, ...]]:
    """What is found where host two answers so."""
    attempts = {" one sh -c": says(LINUX, "10.0.0.1"), " two sh -c": list(how)}
    found = find(context(tmp_path, attempts, **named), "hosts")
    assert [finding.severity for finding in found] == ["ok", "error"]
    return found[1].seen, found[1].cure, found[1].commands


def test_hosts_that_are_alike_get_no_warning(tmp_path: Path) -> None:
    found = find(context(tmp_path, alike(LINUX)), "hosts", "host-versions", "ring", "backend-to-use")
    assert [(finding.name, *told(finding)) for finding in found] == [
        ("hosts", "ok", "one: engine, Linux x86_64, MLX on cpu", ()),
        ("hosts", "ok", "two: engine, Linux x86_64, MLX on cpu", ()),
        (
            "host-versions",
            "ok",
            "the same on all 2: grpo 0.1.0 (sources 01234567), mlx 0.32.4, mlx-lm 0.32.2, tokenizers 0.22.1, "
            "transformers 5.0.0",
            (),
        ),
        (
            "ring",
            "ok",
            "2 ranks: 0.062 ms for a sum of one number, 0.5 s for one of 67 MB; each moves 0.13 GB/s",
            (),
        ),
        (
            "backend-to-use",
            "ok",
            "ring suits these hosts (jaccl: one is not a Mac; nccl: one computes on cpu, not on a CUDA card)",
            (),
        ),
    ]
    assert {finding.subject for finding in found} == {"hosts"}


def test_how_hosts_are_asked(tmp_path: Path) -> None:
    asked = []

    class Listening(Machine):
        def attempt(self, *command: str, seconds: float) -> Attempt:
            asked.append(command)
            return Attempt(None, f"{seconds} s")

    path = tmp_path / "hosts.json"
    path.write_text(json.dumps([HOSTS[0], {"ssh": "127.0.0.1", "ips": ["10.0.0.9"]}, HOSTS[0]]))
    find(Context(machine=Listening(), hosts=path, python="/opt/grpo env/python"), "hosts")
    ask = "'/opt/grpo env/python' -P -m grpo_cli.distributed.facts"
    rest = "|| { code=$?; command -v grpo; exit $code; }"
    remote, local = sorted(asked, reverse=True)
    assert local == ("sh", "-c", f"{ask} 10.0.0.9 {rest}")
    assert remote[:-1] == ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "one")
    assert shlex.split(remote[-1]) == ["sh", "-c", f"{ask} 10.0.0.1 {rest}"]


SSH_SAYS = [
    (
        "ssh: Could not resolve hostname two: Name or service not known",
        "two: the name is not known here (ssh: Could not resolve hostname two: Name or service not known)",
        (),
    ),
    (
        "ada@two: Permission denied (publickey,password).",
        "two: ssh refuses our key, or has none and would ask for a password (ada@two: Permission denied "
        "(publickey,password).)",
        ("ssh-copy-id two",),
    ),
    (
        "No ED25519 host key is known for two and you have requested strict checking.\n"
        "Host key verification failed.",
        "two: ssh does not know this machine yet (Host key verification failed.)",
        ("ssh two true",),
    ),
    (
        "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.",
        "two: ssh knows another machine of this name (Host key verification failed.)",
        ("ssh-keygen -R two", "ssh two true"),
    ),
    (
        "ssh: connect to host two port 22: Connection refused",
        "two: it runs no ssh server (ssh: connect to host two port 22: Connection refused)",
        (),
    ),
    (
        "ssh: connect to host two port 22: Operation timed out",
        "two: it is not there (ssh: connect to host two port 22: Operation timed out)",
        (),
    ),
    (
        "kex_exchange_identification: read: reset",
        "two: ssh fails: kex_exchange_identification: read: reset",
        None,
    ),
]


@pytest.mark.parametrize(("said", "seen", "commands"), SSH_SAYS)
def test_what_ssh_fails_of(tmp_path: Path, said: str, seen: str, commands: tuple[str, ...] | None) -> None:
    found, cure, lines = trouble(tmp_path, 255, "", f"{said}\n")
    assert found == seen
    assert lines == (("ssh -v two true",) if commands is None else commands)
    assert cure


def test_localhost_is_another_name_for_what_needs_no_ssh(tmp_path: Path) -> None:
    attempts = {" localhost sh -c": [255, "", "ssh: connect to host localhost port 22: Connection refused"]}
    (finding,) = find(context(tmp_path, attempts, [{"ssh": "localhost", "ips": ["127.0.0.1"]}]), "hosts")
    assert finding.cure == "write 127.0.0.1, where a rank starts without ssh"


def test_a_host_that_does_not_answer_in_time(tmp_path: Path) -> None:
    assert trouble(tmp_path, None)[0] == "two: no answer in 60 s"


def test_a_machine_without_ssh(tmp_path: Path) -> None:
    assert trouble(tmp_path, 127, "", "ssh: No such file or directory")[0] == "two: this machine has no ssh"


def test_a_python_that_is_not_there_and_one_that_is(tmp_path: Path) -> None:
    missing = f"sh: 1: {PYTHON}: not found"
    seen, _, lines = trouble(tmp_path, 127, "", missing)
    assert (seen, lines) == (f"two: there is no {PYTHON}", ())
    _, _, lines = trouble(tmp_path, 127, "Welcome\n/opt/grpo/bin/grpo\n", missing)
    assert lines == (f"grpo doctor --hosts {tmp_path}/hosts.json --python /opt/grpo/bin/python",)


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (
            "/p: Error while finding module specification for 'grpo_cli.distributed.facts' "
            "(ModuleNotFoundError: No module named 'grpo_cli')",
            "two: /p has no `grpo` there, or an older one (",
        ),
        ("/p: No module named grpo_cli.distributed", "two: /p has no `grpo` there, or an older one ("),
        (
            "Unknown option: -P\nTry `python -h' for more information.",
            "two: /p is older than Python 3.11 there",
        ),
        ("ImportError: bad magic number", "two: /p fails there: ImportError: bad magic number"),
        ("", "two: /p fails there: it ended with 1"),
    ],
)
def test_what_python_fails_of(tmp_path: Path, said: str, seen: str) -> None:
    assert trouble(tmp_path, 1, "", said, python="/p")[0].startswith(seen)


def test_facts_of_a_process_that_then_dies_are_not_believed(tmp_path: Path) -> None:
    assert trouble(tmp_path, 3, says(LINUX)[1], "")[0] == f"two: {PYTHON} fails there: it ended with 3"


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    attempts = {
        " one sh -c": says(LINUX, "10.0.0.1"),
        " two sh -c": says(MAC, addresses={"10.0.0.2": False, "10.0.1.2": True}),
    }
    finding = only(find(context(tmp_path, attempts), "hosts"), "error")
    assert told(finding) == (
        "error",
        "two: 10.0.0.2 is not an address of that machine (engine)",
        ("ifconfig",),
    )


def test_mlx_that_is_broken_there(tmp_path: Path) -> None:
    broken = {key: value for key, value in LINUX.items() if key not in ("device", "backends")}
    attempts = alike(LINUX, {**broken, "mlx_error": "libmlx.so: cannot open"})
    found = find(context(tmp_path, attempts), "hosts", "backend-to-use")
    assert found[1].seen == "two: MLX cannot be imported there: libmlx.so: cannot open"
    assert told(found[2]) == ("skipped", "it is unknown what two can do", ())


def test_versions_that_differ(tmp_path: Path) -> None:
    other = {**LINUX, "versions": {**VERSIONS, "mlx": "0.32.2", "mlx-lm": "0.32.1"}}
    assert told(look("host-versions", context(tmp_path, alike(LINUX, other)))) == (
        "error",
        "one and two differ: mlx 0.32.4 and 0.32.2; mlx-lm 0.32.2 and 0.32.1",
        (f"ssh two '{PYTHON} -m pip install mlx-lm==0.32.2 '\"'\"'mlx[cpu]==0.32.4'\"'\"''",),
    )


def test_versions_that_differ_on_a_mac(tmp_path: Path) -> None:
    finding = look(
        "host-versions", context(tmp_path, alike(MAC, {**MAC, "versions": {**VERSIONS, "mlx": "0.32.2"}}))
    )
    assert finding.commands == (f"ssh two '{PYTHON} -m pip install mlx==0.32.4'",)


def test_sources_that_differ(tmp_path: Path) -> None:
    other = {**LINUX, "versions": {**VERSIONS, "grpo": "0.1.0 (sources 89abcdef)"}}
    finding = look("host-versions", context(tmp_path, alike(LINUX, other)))
    assert told(finding) == (
        "error",
        "one and two differ: grpo 0.1.0 (sources 01234567) and 0.1.0 (sources 89abcdef)",
        (),
    )
    assert finding.cure == "install on two what one has, including grpo: the same checkout or wheel"


def test_machines_of_two_kinds(tmp_path: Path) -> None:
    finding = look("host-versions", context(tmp_path, alike(MAC, {**CUDA, "python": "3.11.2"})))
    assert told(finding) == (
        "warning",
        "one and two differ: MLX on metal and MLX on cuda; Python 3.12 and Python 3.11",
        (),
    )


def test_a_later_python_of_the_same_release_is_no_difference(tmp_path: Path) -> None:
    assert (
        look("host-versions", context(tmp_path, alike(LINUX, {**LINUX, "python": "3.12.9"}))).severity == "ok"
    )


def test_nothing_to_compare(tmp_path: Path) -> None:
    answers = alike(LINUX) | {" two sh -c": [None]}
    assert look("host-versions", context(tmp_path, answers)).seen == "nothing to compare: too few answer"
    assert (
        look("host-versions", context(tmp_path, alike(LINUX), [HOSTS[0], HOSTS[0]])).seen
        == "nothing to compare: one machine"
    )
