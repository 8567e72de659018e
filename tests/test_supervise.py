"""The parent of `--supervise`: restarts after crashes only, bounded, and passes signals on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_cli import supervise
from grpo_cli.supervise import MOST_RESTARTS, Supervisor, is_crash

# A stand-in for grpo: tells its folder, notes its words, and ends as the file `ends` says, one line a start.
CHILD = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
with open(folder / "starts", "a") as file:
    file.write(" ".join(sys.argv[2:]) + "\\n")
os.write(int(os.environ["GRPO_FOLDER_PIPE"]), os.fsencode(folder / "run") + b"\\n")
ends = (folder / "ends").read_text().split()
end = ends[min(len((folder / "starts").read_text().splitlines()), len(ends)) - 1]
if end == "wait":
    time.sleep(30)
if end.startswith("-"):
    os.kill(os.getpid(), int(end[1:]))
sys.exit(int(end))
"""


def program(folder: Path, ends: str) -> list[str]:
    (folder / "ends").write_text(ends)
    (folder / "child.py").write_text(CHILD)
    (folder / "run").mkdir()
    (folder / "run" / "config.toml").write_text("")
    return [sys.executable, str(folder / "child.py"), str(folder)]


def supervised(folder: Path, ends: str) -> tuple[int, list[str]]:
    """The exit code, and the words of every start."""
    parent = Supervisor(["train", "--config", "x", "--quiet"], program(folder, ends))
    parent.wait = 0.0
    before = {number: signal.getsignal(number) for number in (*supervise.ON_PURPOSE, signal.SIGTTOU)}
    try:
        code = parent.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code, (folder / "starts").read_text().splitlines()


@pytest.mark.parametrize("crash", ["-9", "-11", "75"])
def test_a_crash_is_resumed_from_the_folder_that_the_child_told(
    crash: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, starts = supervised(tmp_path, f"{crash} 0")
    assert (code, starts) == (0, ["train --config x --quiet", f"resume {tmp_path}/run --quiet"])
    assert "restart 1 of at most 5 within an hour" in capfd.readouterr().err


@pytest.mark.parametrize("end", [0, 1, 2, 130])
def test_errors_and_ends_are_not_restarted(end: int, tmp_path: Path) -> None:
    assert supervised(tmp_path, str(end)) == (end, ["train --config x --quiet"])


def test_a_run_that_made_no_folder_starts_again_from_its_configuration(tmp_path: Path) -> None:
    words = program(tmp_path, "-9 0")
    (tmp_path / "run" / "config.toml").unlink()
    parent = Supervisor(["train"], words)
    parent.wait = 0.0
    assert os.waitstatus_to_exitcode(parent._run_child(["train"])) == -9
    assert parent.folder == f"{tmp_path}/run"
    assert not supervise.has_run(parent.folder)


def test_a_crash_that_comes_again_and_again_ends_it(tmp_path: Path) -> None:
    code, starts = supervised(tmp_path, "-9")
    assert (code, len(starts)) == (137, MOST_RESTARTS + 1)


def test_signals_that_end_a_run_on_purpose_are_no_crash() -> None:
    assert [is_crash(code) for code in (-2, -15, -1, -9, -11, 75, 1, 2)] == [
        *(False, False, False, True, True, True, False, False)
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_and_ends_both(number: signal.Signals, tmp_path: Path) -> None:
    words = program(tmp_path, "wait")
    code = (
        "import sys; from grpo_cli.supervise import Supervisor; "
        f"sys.exit(Supervisor(['train'], {words!r}).run())"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (tmp_path / "starts").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    parent.send_signal(number)
    assert parent.wait(20) == 128 + number
    assert (tmp_path / "starts").read_text().splitlines() == ["train"]


def test_the_parent_imports_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import grpo_cli.supervise; "
        "print([name for name in set(sys.modules) - before if name.partition('.')[0] not in "
        "{*sys.stdlib_module_names, 'grpo_cli'}], len(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    names, count = found.rsplit(" ", 1)
    assert names == "[]"
    assert int(count) < 30
