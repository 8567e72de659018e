"""`--supervise`: a small parent that starts a run again after a crash that is not the run's own fault.

    python -P -m grpo_cli.supervise train --config prod

The parent imports the standard library only. The child writes the run's folder into a pipe; after a crash it
is resumed from its newest checkpoint. A crash is an end by a signal (kill -9, the system's memory killer, a
segmentation fault) or a lost device. Errors of configuration, data or rewards, and signals that end the run
on purpose, end the parent with the same exit code.

On a terminal the child is the foreground job, so Ctrl-C reaches it alone, and Ctrl-Z stops both. Signals sent
to the parent are passed on.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

MOST_RESTARTS = 5  # within an hour
HOUR = 3600.0
WAIT_SECONDS = 2.0  # before a restart; after a lost device ten times as long
LOST_DEVICE = 75  # exit code of engine/recovery.py's DeviceLost
ON_PURPOSE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FOLDER_PIPE = "GRPO_FOLDER_PIPE"  # descriptor that the child writes the run's folder to
LONGEST_PATH = 1 << 16


class Supervisor:
    """Starts `grpo` with `words`, and resumes its run after a crash. `program`: the words that start grpo."""

    def __init__(self, words: Sequence[str], program: Sequence[str] = ()) -> None:
        self.words = list(words)
        self.program = list(program) or [sys.executable, "-P", "-m", "grpo_cli"]
        self.folder = ""  # of the run, once it is known
        self.child = 0
        self.is_ending = False  # a signal asked for the end
        self.restarts: list[float] = []
        self.wait = WAIT_SECONDS

    def run(self) -> int:
        """Supervise until the run ends; returns its exit code."""
        wanted = [number for number in ON_PURPOSE if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
        for number in wanted:
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # so that a background parent may take its terminal
        words = self.words
        while True:
            status = self._run_child(words)
            code = os.waitstatus_to_exitcode(status)
            if self.is_ending or not is_crash(code) or not self._may_restart(code):
                return code if code >= 0 else 128 - code
            time.sleep(self.wait * (10 if code == LOST_DEVICE else 1))
            if self.is_ending:
                return 130
            if self.folder and has_run(self.folder):
                words = ["resume", self.folder, *(["--quiet"] if "--quiet" in self.words else [])]

    def _run_child(self, words: list[str]) -> int:
        """Run one child to its end; returns its wait status."""
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        environment = {**os.environ, FOLDER_PIPE: str(writing)}
        program = [*self.program, *words]
        terminal = foreground_terminal()
        self.child = os.posix_spawn(
            program[0], program, environment, setpgroup=0, setsigdef=[signal.SIGTTOU, *self._handled()]
        )
        os.close(writing)
        status = self._wait_on(terminal)
        self.child = 0
        os.set_blocking(reading, False)
        with suppress(BlockingIOError):  # a process that the run started still holds the other end
            while found := os.read(reading, LONGEST_PATH):
                self.folder = os.fsdecode(found).splitlines()[-1]
        os.close(reading)
        return status

    def _handled(self) -> list[signal.Signals]:
        return [number for number in ON_PURPOSE if signal.getsignal(number) == self._pass_on]

    def _wait_on(self, terminal: int | None) -> int:
        """Wait for the child with the terminal in its hands; Ctrl-Z stops this process, too."""
        give(terminal, self.child)
        try:
            while True:
                _, status = os.waitpid(self.child, os.WUNTRACED)
                if not os.WIFSTOPPED(status):
                    return status
                give(terminal, os.getpgrp())
                os.kill(os.getpid(), signal.SIGSTOP)  # until `fg`
                give(terminal, self.child)
                os.kill(self.child, signal.SIGCONT)
        finally:
            give(terminal, os.getpgrp())

    def _pass_on(self, number: int, _frame: object) -> None:
        self.is_ending = True
        if self.child:
            with suppress(ProcessLookupError):
                os.kill(self.child, number)

    def _may_restart(self, code: int) -> bool:
        """Count a restart and report it; False if there were too many within an hour."""
        ended = f"was ended by {name_of(code)}" if code < 0 else "lost its device"
        now = time.monotonic()
        self.restarts = [moment for moment in self.restarts if now - moment < HOUR]
        if len(self.restarts) >= MOST_RESTARTS:
            tell(f"The run {ended}, for the {MOST_RESTARTS + 1}th time within an hour: it is not restarted.")
            return False
        self.restarts.append(now)
        count = len(self.restarts)
        tell(f"The run {ended}; it is resumed (restart {count} of at most {MOST_RESTARTS} within an hour).")
        return True


def has_run(folder: str) -> bool:
    """True if the folder holds a run that can be resumed, at least from step 0."""
    return os.access(f"{folder}/config.toml", os.F_OK)


def is_crash(code: int) -> bool:
    """True for an end that is not the run's own fault. `code`: negative for a signal."""
    return code == LOST_DEVICE or (code < 0 and -code not in ON_PURPOSE)


def name_of(code: int) -> str:
    """The name of a signal, from its negative number."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def foreground_terminal() -> int | None:
    """Descriptor of the terminal if this process is its foreground job; None otherwise."""
    with suppress(OSError):
        if os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp():
            return 0
    return None


def give(terminal: int | None, group: int) -> None:
    """Make a process group the terminal's foreground job."""
    if terminal is not None:
        with suppress(OSError):  # the terminal is closed, or the group has ended
            os.tcsetpgrp(terminal, group)


def tell(text: str) -> None:
    """One line on stderr, which may be closed."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


if __name__ == "__main__":
    sys.exit(Supervisor(sys.argv[1:]).run())
