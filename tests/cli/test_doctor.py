"""`grpo doctor` as it is typed: what it prints, where, and with which exit code."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from typer.testing import CliRunner, Result

from grpo_cli.cli.diagnosis import described, verdict
from grpo_cli.cli.main import app
from grpo_cli.cli.terminal import broken_at_words
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, ok, warning
from grpo_cli.doctor.read.machine import Machine
from grpo_cli.doctor.run import diagnose
from grpo_cli.doctor.table import CHECKS, Check


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="module")
def one_probe() -> Iterator[None]:
    """MLX is tried in a process of its own once, and not again for every command."""
    real, found = Machine.probe, []

    def probe(machine: Machine) -> dict[str, Any]:
        if not found:
            found.append(real(machine))
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "probe", probe)
        yield


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
        "Another process is using the run's folder",
        "",
        "  The run in … is in use by the process …",
        "",
    ]
    assert "What to do" in lines
    assert "How it works" not in lines  # there is no more to know


def test_a_chapter_that_says_how_a_thing_works_shows_its_blocks_as_they_are() -> None:
    lines = grpo("--explain", "own-rewards").stdout.splitlines()
    start = lines.index("How it works")
    assert lines.index("What to do") < start
    assert lines[start + 1 : start + 4] == [
        "    # my_rewards.py: every column of the dataset arrives as a keyword",
        "    def short(prompts, completions, answer, **columns) -> list[float]:",
        "        return [float(len(completion) < 200) for completion in completions]",
    ]


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
        (["--only", "repetition"], "The check repetition has nothing to examine"),
        (["--only", "ring"], "The check ring has nothing to examine"),
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


@pytest.mark.parametrize(
    ("option", "what"), [("--run", "Run"), ("--checkpoint", "Checkpoint"), ("--hosts", "Host file")]
)
def test_paths_are_what_a_shell_has_for_them(option: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    for named in ("~/nowhere", "$HOME/nowhere"):
        assert grpo(option, named).stderr.splitlines()[0] == f"{what} not found: /home/ada/nowhere"
    assert grpo(option, "$NO_SUCH/x").stderr.startswith("Path not understood: $NO_SUCH/x: $NO_SUCH has no")


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
    fine = Finding(severity="ok", seen="3.12.3", name="python", subject="environment")
    near = Finding(
        severity="warning",
        seen="10.7 GB allowed\nof 16.0",
        cure="raise it until the next reboot",
        commands=("sudo sysctl iogpu.wired_limit_mb=12288",),
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
        f"{space}fix: raise it until the next reboot",
        f"{space}  sudo sysctl iogpu.wired_limit_mb=12288",
        f"{space}more: grpo doctor --explain wired-limit",
    ]


def test_the_verdict_in_a_line() -> None:
    fine, near, bad = (Finding(severity=kind, seen="x", name="n") for kind in ("ok", "warning", "error"))
    assert verdict([fine, bad, bad, bad, near]).plain == "3 problems, 1 warning"
    assert verdict([bad]).plain == "1 problem"
    assert verdict([fine, near, near]).plain == "Nothing is broken, 2 warnings"
    assert verdict([fine, fine]).plain == "No problems found"
    assert verdict([Finding(severity="skipped", seen="x")]).plain == verdict([]).plain == "Nothing to check"


def test_the_verdict_stands_first_and_problems_alone_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("learning_rat = 1e-6\n")
    options = ("--config", "my.toml", "--only", "configuration", "--only", "python")
    lines = grpo(*options).stdout.splitlines()
    assert lines[0] == "1 problem"
    assert any(line.startswith("  ✓ python") for line in lines)
    alone = grpo(*options, "--problems").stdout.splitlines()
    assert [line[2] for line in alone if line.startswith("  ") and line[2] != " "] == ["✗"]
    document = json.loads(grpo(*options, "--problems", "--json").stdout)
    assert [row["severity"] for row in document["findings"]] == ["error"]
    assert document["counts"]["ok"] > 0
    assert grpo("--only", "python", "--problems").stdout == "No problems found\n"


TROUBLES = {"two", "leftovers", "garbled", "zero", "nothing", "identical", "high", "nan", "collapse"}
TROUBLES |= {"truncation", "repetition", "flat", "interruptions"}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_that_is_called_after_a_trouble_has_a_name_for_good_news(check: Check) -> None:
    assert bool(TROUBLES & set(check.name.split("-"))) == bool(check.well)
    assert len(check.well) <= 22
    fine = replace(check, look=lambda _: iter([ok("x")]), on_mlx=False)
    (finding,) = diagnose(Context(), [fine])
    assert (finding.name, finding.title) == (check.name, check.well or check.name)
    assert described(finding).plain.split("  ")[1].startswith(f"✓ {check.well or check.name}")
    bad = replace(fine, look=lambda _: iter([warning("x", "y")]))
    assert next(diagnose(Context(), [bad])).title == check.name


@pytest.mark.parametrize("width", [80, 120])
def test_no_word_is_broken_on_a_terminal(width: int) -> None:
    words = "the_policy_moves " * 30 + "https://huggingface.co/settings/tokens"
    commands = ("hf download Qwen/Qwen2.5-0.5B-Instruct --repo-type dataset",)
    finding = Finding(
        severity="warning", seen=words, cure=words, commands=commands, name="n", subject="s", why=words
    )
    lines = described(finding, width).plain.splitlines()
    assert max(map(len, lines)) <= width
    shown = [word for line in lines for word in line.split()]
    assert [word for word in shown if word not in {*words.split(), *commands[0].split()}] == [
        "!", "n", "fix:", "more:", "grpo", "doctor", "--explain", "n",
    ]  # fmt: skip
    assert [line.strip() for line in lines if "hf download" in line] == list(commands)


@pytest.mark.parametrize("width", [40, 80])
def test_lines_of_people_break_between_words(width: int) -> None:
    text = "hint: c.toml:3: write `kl_coeff = 0.04` and then " + "`grpo config validate my.toml` " * 3
    lines = broken_at_words(Text(f"  {text}\nx"), width).plain.split("\n")
    assert max(map(len, lines)) <= width
    assert " ".join(line.strip() for line in lines) == f"{text.strip()} x"
    assert all(line.count("`") % 2 == 0 and line.startswith("  ") for line in lines[:-1])


def test_what_a_file_says_cannot_steer_the_terminal() -> None:
    evil = Finding(
        severity="error",
        seen="a\x1b[2Jb",
        cure="c\x07",
        commands=("rm \x1b[31m",),
        name="n",
        subject="s",
        why="w\x1b",
    )
    assert "\x1b" not in described(evil).plain
    assert "\x07" not in described(evil).plain
