"""How a cure of the doctor's is applied: what a scenario does, and where in the sources its finding is made.

A scenario is a generator. It makes the trouble, yields a look at it, is sent the finding, and does what the
finding says; then the check looks again and must find nothing:

    def no_log() -> Cure:
        folder = run(log_jsonl=False)
        finding = yield lambda: look(Here(run=folder), "run-log")
        yield lambda: look(Here(run=run(**toml(finding))), "run-log")     # else the first look is repeated
"""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.doctor.findings import Finding
from tests.support.cure_scenarios import below
from tests.support.doctor_cure_places import WHERE

CHECKS = Path(__file__).parents[2] / "grpo_cli/doctor/checks"
MAKERS = {"error", "warning"}
HF = """#!/bin/sh
exec "$PYTHON" - "$@" <<'EOF'
import pathlib, shutil, sys
words = sys.argv[1:]
place = pathlib.Path(words[words.index("--local-dir") + 1])
assert words[0] == "download" and words[1].count("/") == 1
for name in words[2 : words.index("--local-dir")]:
    shutil.copyfile(pathlib.Path("hub") / name, place / name)
EOF
"""
OF_THE_SHELL = ("PATH", "PYTHON", "PWD", "OLDPWD", "SHLVL", "_")
Look = Callable[[], list[Finding]]
Cure = Generator[Look, Finding, None]


def toml(finding: Finding) -> dict[str, Any]:
    """The keys of the finding's lines of TOML; of several lines for one key, the first."""
    lines = [line for line in finding.commands if re.match(r"\w+ = ", line)]
    return {key: value for line in reversed(lines) for key, value in tomllib.loads(line).items()}


def command(finding: Finding, start: str) -> list[str]:
    """The words of the finding's first command that starts so."""
    return shlex.split(next(line for line in finding.commands if line.startswith(start)))


def run_shell(line: str, **environment: str) -> dict[str, str]:
    """Run a line in a shell of its own, with stand-ins for programs; the environment that it leaves.

    `hf download … FILE… --local-dir DIR` copies the files of the folder `hub`, as the hub would send them.
    """
    programs = Path("programs")
    programs.mkdir(exist_ok=True)
    (programs / "hf").write_text(HF)
    (programs / "hf").chmod(0o755)
    path = f"{programs.absolute()}{os.pathsep}{os.environ['PATH']}"
    script = f"{line}\nenv -0"
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", script],
        env={"PATH": path, "PYTHON": sys.executable, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    entries = done.stdout.rpartition("\n")[2].split("\0")
    found = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return {name: value for name, value in found.items() if name not in OF_THE_SHELL}


def cases_of(names: dict[str, Any]) -> Callable[..., None]:
    """The test of every scenario among a module's names."""
    scenarios = {
        name: found
        for name, found in names.items()
        if getattr(found, "__annotations__", {}).get("return") is Cure
        and found.__module__ == names["__name__"]
    }

    @pytest.mark.parametrize("name", scenarios)
    def test_a_cure_cures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert apply(scenarios[name]) == WHERE[name]

    return test_a_cure_cures


def apply(scenario: Callable[[], Cure]) -> str:
    """Make the trouble, find it, apply its cure, find nothing more; where the finding was made."""
    steps = scenario()
    look = next(steps)
    with noted() as made:
        (problem,) = [finding for finding in look() if finding.is_problem]
    assert problem.cure
    try:
        look = steps.send(problem)
    except StopIteration:
        again = look()
    else:
        again = look()
        assert next(steps, None) is None
    assert again
    assert [finding.seen for finding in again if finding.is_problem] == []
    return made[problem.seen]


@contextmanager
def noted() -> Iterator[dict[str, str]]:
    """Place of every finding that is made within the block, by what it says."""
    made: dict[str, str] = {}
    original = Finding.__init__

    def note(self: Finding, **fields: Any) -> None:
        original(self, **fields)
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_name in (*MAKERS, "ok", "skipped"):
            frame = frame.f_back
        path = Path(frame.f_code.co_filename)
        if CHECKS in path.parents:  # else a copy of one, by run.py
            made.setdefault(self.seen, place_at(path, frame.f_lineno))

    Finding.__init__ = note  # type: ignore[method-assign,assignment]
    try:
        yield made
    finally:
        Finding.__init__ = original  # type: ignore[method-assign]


def place_at(path: Path, line: int) -> str:
    """The place of a call in a file of checks."""
    found = [place for place, call in calls_in(path) if call.lineno <= line <= (call.end_lineno or line)]
    return found[0] if found else f"{below(path)}:{line}"


def places() -> set[str]:
    """Everything in the checks that makes a warning or an error: file:function, then #2 for its second."""
    return {place for path in sorted(CHECKS.rglob("*.py")) for place, _ in calls_in(path)}


def calls_in(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call in a file that makes a warning or an error, with its place."""
    found = []
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if is_function(node)]
    for function in functions:
        calls = sorted(made_by(function), key=lambda call: call.lineno)
        for number, call in enumerate(calls, 1):
            name = f"{path.relative_to(CHECKS).as_posix()}:{function.name}"  # type: ignore[attr-defined]
            found.append((name if number == 1 else f"{name}#{number}", call))
    return found


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)


def made_by(function: ast.AST) -> list[ast.Call]:
    """A function's calls of `error` and `warning`, and of names that stand for one of them."""
    assigned = [
        node for node in ast.walk(function) if isinstance(node, ast.Assign) and names_maker(node.value)
    ]
    aliases = {name for node in assigned for target in node.targets for name in names_in(target)}
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    return [
        call
        for call in calls
        if (isinstance(call.func, ast.Name) and call.func.id in MAKERS | aliases)
        or (isinstance(call.func, ast.IfExp) and names_maker(call.func))
    ]


def names_maker(node: ast.AST) -> bool:
    """True for `error`, and for a choice or tuple with it; not for a call of it."""
    parts = [node.body, node.orelse] if isinstance(node, ast.IfExp) else getattr(node, "elts", [node])
    return any(isinstance(part, ast.Name) and part.id in MAKERS for part in parts)


def names_in(node: ast.AST) -> set[str]:
    """Names that an assignment's target sets."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
