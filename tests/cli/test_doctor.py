"""`grpo doctor` as it is typed: what it prints, where, and with which exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from grpo_cli.cli.diagnosis import described, verdict
from grpo_cli.cli.main import app
from grpo_cli.doctor.checks import CHECKS
from grpo_cli.doctor.findings import Finding


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def grpo(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_a_healthy_machine_gets_no_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grpo_cli", "doctor", "--json"], capture_output=True, text=True, check=False
    )
    document = json.loads(done.stdout)
    unwell = [row for row in document["findings"] if row["severity"] in ("warning", "error")]
    assert unwell == []
    assert (done.returncode, done.stderr, document["healthy"]) == (0, "", True)
    assert {row["name"] for row in document["findings"]} >= {"python", "mlx", "memory", "matrix-product"}


def test_a_light_check_loads_no_mlx() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from grpo_cli.cli.main import app\n"
        "done = CliRunner().invoke(app, ['doctor', '--only', 'python', '--only', 'disk-space'])\n"
        "print(done.exit_code, sorted(m for m in ('mlx', 'mlx_lm', 'numpy', 'transformers', 'datasets')"
        " if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 []\n"


def test_the_list_loads_nothing_and_names_every_check() -> None:
    done = grpo("--list")
    assert done.exit_code == 0
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [line for line in lines if line in {check.name for check in CHECKS}] == [
        check.name for check in CHECKS
    ]
    rows = json.loads(grpo("--list", "--json").stdout)["checks"]
    assert rows[0] == {
        "name": "python",
        "subject": "environment",
        "summary": "Python's version and the environment it runs in",
        "needs": "",
    }


def test_a_chapter_is_explained() -> None:
    done = grpo("--explain", "run-in-use")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        "run-in-use",
        "Another process works in the run's folder",
        "",
        "  The run in … is in use by the process …",
        "",
    ]
    assert "What to do" in lines


def test_an_unknown_chapter_is_a_usage_error_with_near_names() -> None:
    done = grpo("--explain", "runs-in-use")
    assert (done.exit_code, done.stdout) == (2, "")
    first, empty, hint, more = done.stderr.splitlines()
    assert (first, empty) == ("No chapter: runs-in-use", "")
    assert hint.startswith("hint: did you mean `run-in-use`")
    assert more == "more: `grpo doctor --explain doctor`"


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["--only", "pyton"], "Unknown check: pyton"),
        (["--only", "repetition"], "The check repetition has nothing to look at"),
        (["--only", "ring"], "The check ring has nothing to look at"),
        (["--hosts", "nowhere"], "Host file not found: nowhere"),
        (["--run", "nowhere"], "Run not found: nowhere"),
        (["--model", "no/such/model"], "Model not found: no/such/model"),
        (["--only", "python", "--report", "no/folder/bug.md"], "Cannot write the report: no/folder/bug.md"),
    ],
)
def test_mistakes(arguments: list[str], first: str) -> None:
    done = grpo(*arguments)
    assert done.exit_code in (1, 2)
    assert done.stderr.splitlines()[0].startswith(first)
    assert "Traceback" not in done.stderr


def test_hosts_are_examined_beside_what_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts.json").write_text('[{"ssh": "127.0.0.1", "ips": ["192.0.2.1"]}]')
    options = ("--only", "hosts", "--only", "python", "--starting-port", "45000")
    done = grpo("--hosts", "hosts.json", "--python", "/no/python", *options, "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["healthy"]) == (1, False)
    assert [(row["name"], row["severity"]) for row in document["findings"]] == [
        ("python", "ok"),
        ("hosts", "error"),
        ("host-versions", "skipped"),
        ("ring", "skipped"),
        ("backend-to-use", "skipped"),
    ]
    assert document["findings"][1]["seen"] == "127.0.0.1: there is no /no/python"


def test_what_is_broken_ends_with_one_and_stays_one_document(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("learning_rat = 1e-6\n")
    done = grpo("--config", "my.toml", "--only", "configuration", "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["healthy"] is False
    assert document["counts"]["error"] == 1
    (row,) = [row for row in document["findings"] if row["severity"] == "error"]
    assert row["seen"].startswith("my.toml:1: Unknown config key: learning_rat")
    assert row["name"] == "unknown-key"


def test_a_report_is_written_beside_the_findings(tmp_path: Path) -> None:
    done = grpo("--only", "python", "--report", "bug.md")
    assert done.exit_code == 0
    assert "✓ python" in done.stdout
    assert (tmp_path / "bug.md").read_text().startswith("# Bug report of grpo\n")


def test_how_findings_look() -> None:
    fine = Finding("ok", "3.12.3", name="python", subject="environment")
    near = Finding(
        "warning",
        "10.7 GB allowed\nof 16.0",
        "raise it until the next reboot",
        ("sudo sysctl iogpu.wired_limit_mb=12288",),
        name="wired-limit",
        subject="memory",
        why="What is beyond it is swapped.",
    )
    space = " " * 26
    assert described(fine).plain == "  ✓ python                3.12.3"
    assert described(near).plain.splitlines() == [
        "  ! wired-limit           10.7 GB allowed",
        f"{space}of 16.0",
        f"{space}What is beyond it is swapped.",
        f"{space}cure: raise it until the next reboot",
        f"{space}  sudo sysctl iogpu.wired_limit_mb=12288",
        f"{space}more: grpo doctor --explain wired-limit",
    ]
    assert verdict([fine, near, near]).plain == "1 ✓, 2 !"
    assert verdict([]).plain == "nothing to look at"


def test_what_a_file_says_cannot_steer_the_terminal() -> None:
    evil = Finding("error", "a\x1b[2Jb", "c\x07", ("rm \x1b[31m",), name="n", subject="s", why="w\x1b")
    assert "\x1b" not in described(evil).plain
    assert "\x07" not in described(evil).plain
