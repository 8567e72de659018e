"""The parent of `--supervise`: restarts after crashes only, bounded, and passes signals on."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_cli import supervise
from grpo_cli.engine.run_dir.manifest import checkpoints, damage
from grpo_cli.supervise import MOST_RESTARTS, Supervisor, is_crash
from tests.support.small_runs import SHORT, lines, small
from tests.support.waiting import wait_until

# A stand-in for grpo: tells its folder, notes its words, and ends as the file `ends` says, one line a start.
CHILD = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
with open(folder / "starts", "a") as file:
    file.write(" ".join(sys.argv[2:]) + "\\n")
pipe = int(os.environ["GRPO_SUPERVISOR_PIPE"])
os.write(pipe, b"cuda\\0\\0")
ends = (folder / "ends").read_text().split()
end = ends[min(len((folder / "starts").read_text().splitlines()), len(ends)) - 1]
if end.startswith("early"):  # before it has told its folder
    os.kill(os.getpid(), 9)
os.write(pipe, b"cuda\\0" + os.fsencode(folder / "run") + b"\\0--quiet\\0\\0")
if end == "wait":
    time.sleep(30)
if end == "device":
    sys.exit(f"had {os.environ['GRPO_LAST_DEVICE']!r}")
if end == "aborts":
    (folder / "run" / "ended.json").write_text('{"state": "interrupted", "reason": "Stopped after step 2."}')
    os.abort()
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
    with handlers_kept():
        code = parent.run()
    return code, (folder / "starts").read_text().splitlines()


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Within the block a Supervisor may set its handlers."""
    handled = (*supervise.ON_PURPOSE, signal.SIGTTOU, signal.SIGCONT)
    before = {number: signal.getsignal(number) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    assert (parent.again, parent.device) == ([f"{tmp_path}/run", "--quiet"], "cuda")
    assert not supervise.has_run(parent.again[0])


def test_a_crash_before_the_folder_is_told_starts_the_same_command_again(tmp_path: Path) -> None:
    """Until then `--restart`, a named checkpoint and `--set` are in the command only."""
    code, starts = supervised(tmp_path, "early early -9 0")
    first = "train --config x --quiet"
    assert (code, starts) == (0, [first, first, first, f"resume {tmp_path}/run --quiet"])


def test_a_restarted_child_learns_which_device_it_had(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert supervised(tmp_path, "75 device")[0] == 1
    assert "had 'cuda'" in capfd.readouterr().err


def test_an_abort_after_the_run_was_interrupted_is_not_restarted(tmp_path: Path) -> None:
    assert supervised(tmp_path, "aborts") == (128 + signal.SIGABRT, ["train --config x --quiet"])


def test_an_old_interruption_does_not_keep_a_run_from_its_restart(tmp_path: Path) -> None:
    """The child was killed before it removed the file of the part before."""
    words = program(tmp_path, "early 0")
    (tmp_path / "run" / "ended.json").write_text('{"state": "interrupted"}')
    parent = Supervisor(["resume"], words)
    parent.wait = 0.0
    with handlers_kept():
        assert parent.run() == 0


@pytest.mark.parametrize("text", ["", "[]", '{"state": "failed", "reason": "interrupted"}', "\xff{"])
def test_only_an_interruption_counts(text: str, tmp_path: Path) -> None:
    (tmp_path / "ended.json").write_text(text)
    assert not supervise.was_interrupted(str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_wait_ends_it_at_once(number: signal.Signals, tmp_path: Path) -> None:
    parent = Supervisor(["train"], program(tmp_path, "-9"))
    parent.wait = 60.0
    timer = threading.Timer(0.0, os.kill, (os.getpid(), number))
    parent._may_restart = lambda _code: timer.start() is None  # type: ignore[method-assign]
    started = time.monotonic()
    with handlers_kept():
        assert parent.run() == 128 + number
    assert time.monotonic() - started < 20


def test_a_signal_before_there_is_a_child_reaches_it(tmp_path: Path) -> None:
    parent = Supervisor(["train"], program(tmp_path, "wait"))
    parent._pass_on(signal.SIGTERM, None)
    assert os.waitstatus_to_exitcode(parent._run_child(["train"])) == -signal.SIGTERM


def test_after_bg_the_terminal_stays_the_shells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child 7, this group, and a shell of group 3 that takes the terminal after Ctrl-Z."""
    own, given, owners = os.getpgrp(), [], [os.getpgrp()]
    stopped, ended = (7, 0x147F), (7, 0)
    after = iter([stopped, stopped, ended])

    def give(_terminal: int, group: int) -> None:
        given.append(group)
        owners[0] = group

    def kill(_pid: int, number: int) -> None:
        if number == signal.SIGSTOP:  # `fg` after the first Ctrl-Z, `bg` after the second
            owners[0] = own if given.count(own) == 1 else 3
            parent._continue(signal.SIGCONT, None)

    for name, fake in {
        "isatty": lambda _: True, "tcgetpgrp": lambda _: owners[0], "tcsetpgrp": give, "kill": kill,
        "waitpid": lambda *_: next(after), "posix_spawn": lambda *_, **__: 7,
    }.items():  # fmt: skip
        monkeypatch.setattr(os, name, fake)
    parent = Supervisor(["train"])
    assert parent._run_child(["train"]) == 0
    assert given == [7, own, 7, own]
    assert owners == [3]


def test_a_crash_that_comes_again_and_again_ends_it(tmp_path: Path) -> None:
    code, starts = supervised(tmp_path, "-9")
    assert (code, len(starts)) == (137, MOST_RESTARTS + 1)


def test_signals_that_end_a_run_on_purpose_are_no_crash() -> None:
    assert [is_crash(code) for code in (-2, -15, -1, -3, -9, -11, 75, 1, 2)] == [
        *(False, False, False, False, True, True, True, False, False)
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_is_passed_on_and_ends_both(number: signal.Signals, tmp_path: Path) -> None:
    words = program(tmp_path, "wait")
    code = (
        "import signal, sys; from grpo_cli.supervise import Supervisor; "
        f"signal.signal({int(number)}, signal.SIG_DFL); "  # ignored in tests that run in the background
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


# A real run whose reward waits as long as the folder holds a file `wait`.
REWARD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.support.letter_reward import mean_letter as letters

def mean_letter(completions, **columns):
    Path({folder!r}, "in a reward").touch()
    while Path({folder!r}, "wait").exists():
        time.sleep(0.02)
    return letters(completions, **columns)
"""


class Screen:
    """A terminal with `grpo` as its first program; `text` is what was written to it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.text = ""
        environment = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            command = [sys.executable, "-m", "grpo_cli", *words]
            os.execve(sys.executable, command, {**os.environ, **environment})
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
            while data := os.read(self.terminal, 1 << 16):
                self.text += data.decode(errors="replace")

    def child(self) -> int:
        """The supervised process; 0 without one."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(found[0]) if found else 0

    def press_ctrl_c(self) -> None:
        os.write(self.terminal, b"\x03")

    def code(self) -> int:
        """The exit code, once it has ended."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.reader.join()
        os.close(self.terminal)
        return code


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """The folder of a supervised run that was killed, then stopped by one Ctrl-C; its screen and its code."""
    folder = tmp_path_factory.mktemp("supervised")
    root = str(Path(__file__).parents[1])
    (folder / "reward.py").write_text(REWARD.format(root=root, folder=str(folder)))
    changes = {**SHORT, "num_epochs": 1000, "max_steps": 1000, "num_generations": 2, "save_steps": 1}
    config = small(folder, **changes | {"reward_functions": [f"{folder}/reward.py:mean_letter"]})
    chosen = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
              for key, value in config.model_dump(exclude_defaults=True).items()]  # fmt: skip
    (folder / "night.toml").write_text("".join(chosen))
    screen = Screen(folder, "train", "--supervise", "--config", "night.toml")

    def reaches(step: int) -> None:
        wait_until(lambda: any(int(path.name[11:]) >= step for path in checkpoints(folder / "run")), "steps")

    reaches(2)
    os.kill(screen.child(), signal.SIGKILL)
    wait_until(lambda: "restart 1 of at most 5" in screen.text, "the restart")
    before = len(lines(folder / "run"))
    reaches(before + 1)
    screen.press_ctrl_c()
    code = screen.code()
    return folder, screen.text, code


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_on_a_terminal_a_killed_run_is_resumed_and_one_ctrl_c_saves_and_ends_it(
    killed: tuple[Path, str, int],
) -> None:
    folder, text, code = killed
    assert code == 130
    assert "The run was ended by SIGKILL; it is resumed (restart 1 of at most 5 within an hour)." in text
    assert "Stopping after step" in text
    assert "\x1b[" in text and "reward" in text  # the live display, twice
    assert text.count("\x1b[?25l") == 2  # the cursor is hidden once in each process
    newest = checkpoints(folder / "run")[-1]
    assert damage(newest) is None
    assert f"Step {newest.name[11:]} is saved in run/{newest.name}." in text
    assert lines(folder / "run")[-1]["step"] == int(newest.name[11:])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_a_second_ctrl_c_ends_a_supervised_run_within_the_step(killed: tuple[Path, str, int]) -> None:
    folder, _, _ = killed
    newest = checkpoints(folder / "run")[-1].name
    (folder / "wait").touch()
    (folder / "in a reward").unlink()
    screen = Screen(folder, "resume", "--supervise", "run")
    wait_until((folder / "in a reward").exists, "the reward")
    screen.press_ctrl_c()
    time.sleep(0.3)  # two signals at once would be one
    screen.press_ctrl_c()
    assert screen.code() == 130
    assert "restart" not in screen.text
    assert checkpoints(folder / "run")[-1].name == newest
