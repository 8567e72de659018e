"""`grpo launch`: how ranks ended, read from the launcher's lines; what it says of a missing host file."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grpo_cli.cli import launch as launch_module
from grpo_cli.cli.launch import Launch, exit_code
from grpo_cli.cli.main import app
from grpo_cli.foreign_text import guarded_output
from tests.support.waiting import HANG, NEVER

WARNED = "\\033[33m[WARN] Node with rank {} exited with code {} \\033[0m"


def ended(*codes: tuple[int, int], own: int = 0) -> int:
    """The code of a launcher that tells of ranks and their codes."""
    lines = ["some line of a rank", *(WARNED.format(rank, code) for rank, code in codes)]
    script = f"import sys; sys.stderr.write('''{chr(10).join(lines)}\n'''); sys.exit({own})"
    return Launch([sys.executable, "-c", script]).run()


@pytest.mark.parametrize(
    ("codes", "own", "expected"),
    [
        ([], 0, 0),
        ([(1, 1)], 0, 1),
        ([(1, 2), (0, -15)], 0, 2),  # the first one failed, the launcher ended the other
        ([(1, -9), (0, 1)], 0, 137),
        ([], 2, 2),  # the launcher's own usage error
    ],
)
def test_the_first_failure_is_the_exit_code(
    codes: list[tuple[int, int]], own: int, expected: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended(*codes, own=own) == expected
    assert "some line of a rank" in capfd.readouterr().err


def test_exit_codes_as_a_shell_has_them() -> None:
    assert [exit_code(code) for code in (0, 1, 130, -9, -15)] == [0, 1, 130, 137, 143]


def test_a_missing_host_file_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["launch", "--hostfile", str(tmp_path / "x.json"), "train"])
    assert result.exit_code == 2
    assert f"Host file not found: {tmp_path / 'x.json'}" in result.stderr


def test_the_command_is_passed_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Recorded:
        failures: dict[int, int] = {}  # noqa: RUF012

        def __init__(self, words: list[str], *_: object) -> None:
            seen.extend(words)

        def run(self) -> int:
            return 3

    monkeypatch.setattr(launch_module, "Launch", Recorded)
    monkeypatch.setattr(launch_module, "launcher", lambda: "mlx.launch")
    words = ["launch", "-n", "3", "train", "--config", "prod", "--set", "seed=1", "-n", "7"]
    assert CliRunner().invoke(app, words).exit_code == 3
    assert seen == [
        "mlx.launch", "-n", "3", "--starting-port", "32323", "--", sys.executable, "-P", "-m", "grpo_cli",
        "train", "--config", "prod", "--set", "seed=1", "-n", "7",
    ]  # fmt: skip


def test_a_rank_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_module, "EXIT_SECONDS", 0.5)
    line = WARNED.format(0, 1)
    script = f"import sys, time; sys.stderr.write('{line}\\n'); sys.stderr.flush(); time.sleep({NEVER})"
    started = time.monotonic()
    assert Launch([sys.executable, "-c", script]).run() == 1
    assert time.monotonic() - started < HANG


@pytest.mark.parametrize("named", ["~/hosts.json", "$PLACE/hosts.json", "hosts.json"])
def test_hosts_that_ssh_does_not_reach_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.chdir(tmp_path if named == "hosts.json" else tmp_path.parent)
    hosts, launched = tmp_path / "hosts.json", []
    hosts.write_text('[{"ssh": "mac1", "ips": ["10.0.0.1"]}, {"ssh": "mac2", "ips": ["10.0.0.2"]}]')

    class Failed:
        def __init__(self, words: list[str], *_: object) -> None:
            launched.append(words[words.index("--hostfile") + 1])
            self.failures = {1: 255, 0: -15}

        def run(self) -> int:
            return 255

    monkeypatch.setattr(launch_module, "Launch", Failed)
    result = CliRunner().invoke(app, ["launch", "--hostfile", named, "train"])
    assert result.exit_code == 1
    assert [Path(launched[0]).absolute()] == [hosts]
    assert result.stderr.startswith("Cannot reach hosts by ssh: mac2\n\nhint: `grpo doctor --hosts FILE`")


def test_children_of_a_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in launch_module.children(os.getpid())
        child.communicate(b"\n")


def test_what_other_machines_say_does_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    said = "greeting \x1b]0;x\x07\x9b2J\r\nnaïve 10%\r20%\n"
    script = f"import sys; [s.buffer.write({said.encode()!r}) for s in (sys.stdout, sys.stderr)]"
    with guarded_output():
        assert Launch([sys.executable, "-c", script]).run() == 0
    shown = "greeting ␛]0;x␇\\u009b2J\nnaïve 10%\n20%\n"
    assert capfd.readouterr() == (shown, shown)


@pytest.mark.parametrize("words", [["-m", "grpo_cli", "--version"], ["-P", "-m", "grpo_cli", "--version"]])
def test_modules_of_the_current_folder_are_nobodys(tmp_path: Path, words: list[str]) -> None:
    for name in ("typer", "rich", "unicodedata"):
        (tmp_path / f"{name}.py").write_text(
            "raise SystemExit('a module of the current folder was imported')"
        )
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:5]) == (0, "grpo "), done.stderr
