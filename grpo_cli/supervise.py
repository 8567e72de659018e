"""`--supervise`: a small parent that starts a run again after a crash that is not the run's own fault.

    python -P -m grpo_cli.supervise train --config prod

The parent imports the standard library only. The child writes into a pipe how its run is resumed: the folder
and the options that still count. After a crash it is resumed from its newest checkpoint; before the child has
told anything, the same command starts again. A crash is an end by a signal (kill -9, the system's memory
killer, a segmentation fault) or a lost device. Errors of configuration, data or rewards, and signals that end
the run on purpose, end the parent with the same exit code.

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
TICK = 0.1  # seconds; a signal ends a wait after one at most
ON_PURPOSE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
PIPE = "GRPO_SUPERVISOR_PIPE"  # descriptor that the child tells the parent through
LAST_DEVICE = "GRPO_LAST_DEVICE"  # kind of the device that the run had before this restart
END = b"\0\0"  # of a message in the pipe: words separated by single zeros
AT_ONCE = 1 << 16  # bytes


class Supervisor:
    """Starts `grpo` with `words`, and resumes its run after a crash. `program`: the words that start grpo."""

    def __init__(self, words: Sequence[str], program: Sequence[str] = ()) -> None:
        self.words = list(words)
        self.program = list(program) or [sys.executable, "-P", "-m", "grpo_cli"]
        self.again: list[str] = []  # the run's folder and the options to resume it with, once they are known
        self.device = ""  # its kind, once it is known
        self.child = 0
        self.ending = 0  # the signal that asked for the end
        self.terminal: int | None = None  # that the child was given
        self.restarts: list[float] = []
        self.wait = WAIT_SECONDS

    def run(self) -> int:
        """Supervise until the run ends; returns its exit code."""
        wanted = [number for number in ON_PURPOSE if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
        for number in wanted:
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # so that a background parent may take its terminal
        signal.signal(signal.SIGCONT, self._continue)
        words = self.words
        while True:
            code = os.waitstatus_to_exitcode(self._run_child(words))
            if self.ending or not is_crash(code) or self._is_interrupted() or not self._may_restart(code):
                return code if code >= 0 else 128 - code
            self._pause(self.wait * (10 if code == LOST_DEVICE else 1))
            if self.ending:
                return 128 + self.ending
            if self.again and has_run(self.again[0]):
                words = ["resume", *self.again]

    def _run_child(self, words: list[str]) -> int:
        """Run one child to its end; returns its wait status."""
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        environment = {**os.environ, PIPE: str(writing), LAST_DEVICE: self.device}
        program = [*self.program, *words]
        self.terminal = foreground_terminal(os.getpgrp())
        self.child = os.posix_spawn(
            program[0], program, environment, setpgroup=0, setsigdef=[signal.SIGTTOU, *self._handled()]
        )
        if self.ending:  # a signal came before there was a child to pass it on to
            self._pass_on(self.ending, None)
        os.close(writing)
        status = self._wait_on()
        self.child = 0
        self._read(reading)
        os.close(reading)
        return status

    def _handled(self) -> list[signal.Signals]:
        return [number for number in ON_PURPOSE if signal.getsignal(number) == self._pass_on]

    def _wait_on(self) -> int:
        """Wait for the child with the terminal in its hands; Ctrl-Z stops this process, too."""
        give(self.terminal, self.child)
        try:
            while True:
                _, status = os.waitpid(self.child, os.WUNTRACED)
                if not os.WIFSTOPPED(status):
                    return status
                give(self.terminal, os.getpgrp())
                os.kill(os.getpid(), signal.SIGSTOP)  # until `fg` or `bg`
        finally:
            give(self.terminal, os.getpgrp())

    def _read(self, reading: int) -> None:
        """Take what the child told: the kind of its device, later also how to resume its run."""
        os.set_blocking(reading, False)
        told = b""
        with suppress(BlockingIOError):  # a process that the run started still holds the other end
            while found := os.read(reading, AT_ONCE):
                told += found
        for message in told.split(END)[:-1]:
            self.device, *words = map(os.fsdecode, message.split(b"\0"))
            self.again = words or self.again

    def _pause(self, seconds: float) -> None:
        """Wait, until a signal asks for the end."""
        end = time.monotonic() + seconds
        while not self.ending and time.monotonic() < end:
            time.sleep(min(TICK, seconds))

    def _pass_on(self, number: int, _frame: object) -> None:
        self.ending = number
        if self.child:
            with suppress(ProcessLookupError):
                os.kill(self.child, number)

    def _continue(self, _number: int, _frame: object) -> None:
        """After `fg` or `bg`: the child continues, after `fg` with the terminal."""
        if self.child:
            self.terminal = foreground_terminal(os.getpgrp(), self.child)
            give(self.terminal, self.child)
            with suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGCONT)

    def _is_interrupted(self) -> bool:
        """True if the run was stopped on purpose, and its process crashed after it had saved."""
        return bool(self.again) and was_interrupted(self.again[0])

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


def was_interrupted(folder: str) -> bool:
    """True if the run's ended.json says that a signal ended it. A resumed run removes the file."""
    import json  # after a crash only
    from pathlib import Path

    with suppress(OSError, ValueError):
        found = json.loads(Path(folder, "ended.json").read_bytes())
        return isinstance(found, dict) and found.get("state") == "interrupted"
    return False


def is_crash(code: int) -> bool:
    """True for an end that is not the run's own fault. `code`: negative for a signal."""
    return code == LOST_DEVICE or (code < 0 and -code not in ON_PURPOSE)


def name_of(code: int) -> str:
    """The name of a signal, from its negative number."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def foreground_terminal(*groups: int) -> int | None:
    """Descriptor of the terminal if its foreground job is one of these process groups; None otherwise."""
    with suppress(OSError):
        if os.isatty(0) and os.tcgetpgrp(0) in groups:
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
