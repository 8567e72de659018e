"""Probes of hosts: the command that asks one, and what its answers mean, by hand."""

from pathlib import Path

import pytest

from grpo_cli.doctor.read.host_probe import command, found_elsewhere, last_line, ssh_trouble, trouble_of
from grpo_cli.doctor.read.machine import Attempt

HOSTS = Path("my hosts.json")


def test_the_command_is_quoted_for_a_shell_on_both_sides() -> None:
    here = command("/a b/python", "127.0.0.1", ("10.0.0.1",))
    assert here[:2] == ["sh", "-c"]
    assert here[2].startswith("'/a b/python' -P -m grpo_cli.distributed.facts 10.0.0.1 || ")
    there = command("/a b/python", "two", ("10.0.0.2",))
    assert there[0] == "ssh"
    assert there[-2] == "two"
    assert there[-1].startswith("sh -c ") and "/a b/python" in there[-1]
    assert "BatchMode=yes" in there  # it never asks for a password


@pytest.mark.parametrize(
    ("text", "expected"), [("", ""), ("a\nb\n", "b"), ("a\n  b  \n\n \n", "b"), ("\n", "")]
)
def test_the_last_line_that_is_not_blank(text: str, expected: str) -> None:
    assert last_line(text) == expected


def test_a_grpo_that_was_found_there_names_its_python() -> None:
    assert found_elsewhere("Welcome\n/opt/x/bin/grpo\n", HOSTS) == (
        "grpo doctor --hosts 'my hosts.json' --python /opt/x/bin/python",
    )
    assert found_elsewhere("grpo\n", HOSTS) == ()  # an alias, not a path
    assert found_elsewhere("", HOSTS) == ()


@pytest.mark.parametrize(
    ("code", "complaint", "seen"),
    [
        (None, "", "no answer in 60 s"),
        (127, "ssh: No such file or directory", "this machine has no ssh"),
        (127, "sh: 1: /p: not found", "there is no /p"),
        (2, "Unknown option: -P\nTry `python -h'", "/p is older than Python 3.11 there"),
        (1, "x\nOSError: broken\n", "/p fails there: OSError: broken"),
        (1, "", "/p fails there: it ended with 1"),
    ],
)
def test_what_a_failed_attempt_means(code: int | None, complaint: str, seen: str) -> None:
    trouble = trouble_of(Attempt(code, "", complaint), "two", "/p", HOSTS)
    assert trouble.seen == seen
    assert trouble.cure


def test_a_user_s_name_is_left_out_where_ssh_knows_hosts_only() -> None:
    trouble = ssh_trouble("ada@two", "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nkey mismatch\n")
    assert trouble.seen == "ssh knows another machine of this name (key mismatch)"
    assert trouble.commands == ("ssh-keygen -R two", "ssh ada@two true")
