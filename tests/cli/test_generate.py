"""`grpo generate --chat` on a terminal of its own: how it is left, and what Ctrl-C stops."""

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import HANG, wait_until

# The command with answers that never end; `?` has none, so that it is stopped before its first word.
ENDLESS = """
import itertools, sys, time
import grpo_cli.engine.rollout.stream
from grpo_cli.cli.main import run
def stream(policy, ids, sampling, prefix, session):
    asked = policy.tokenizer.decode(ids)
    yield f"[{asked.count('first')} {asked.count('second')} {asked.count('word')}]", None
    for number in itertools.count():
        yield f"word{number} ", None
        time.sleep(0.01)
grpo_cli.engine.rollout.stream.stream = stream
sys.argv = ["grpo", "generate", "--model", "tiny", "--chat"]
run()
"""


class Person:
    """Somebody at a terminal that runs the command."""

    def __init__(self, folder: Path) -> None:
        self.terminal, there = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS],
            stdin=there,
            stdout=there,
            stderr=there,
            cwd=folder,
            start_new_session=True,
            preexec_fn=take_terminal,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
        )
        os.close(there)
        os.set_blocking(self.terminal, False)

    def sees(self, text: str) -> str:
        """Wait for a text; what was shown up to it is returned and forgotten."""
        wait_until(
            lambda: text in self.look(), text, lambda: self.process.poll() is None or text in self.look()
        )
        before, _, self.shown = self.shown.partition(text)
        return before

    def look(self) -> str:
        """All that is shown and was not looked at before."""
        with contextlib.suppress(OSError):  # nothing now, or the other end is closed
            self.shown += os.read(self.terminal, 1 << 16).decode(errors="replace")
        return self.shown

    def types(self, text: str) -> None:
        os.write(self.terminal, text.encode())


def take_terminal() -> None:
    """Make stdin the terminal of this session, so that its Ctrl-C comes here."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path)
    yield person
    person.process.kill()
    person.process.wait()
    os.close(person.terminal)


def test_ctrl_c_stops_the_answer_and_at_the_prompt_the_chat(person: Person) -> None:
    person.sees("An empty line, /exit or Ctrl-D ends the chat; Ctrl-C stops an answer.")
    person.sees("› ")
    person.types("first\n")
    person.sees("[1 0 0]")
    person.sees("word0 word1 word2 ")
    person.types("\x03")
    person.sees("(stopped)")
    person.sees("› ")
    person.types("second\n")
    told = person.sees("word0")
    assert "[1 1 " in told  # the first question is remembered, and what there was of its answer
    assert "[1 1 0]" not in told
    person.types("\x03")
    person.sees("› ")
    person.types("\x03")
    person.sees("Interrupted: the chat has ended.")
    assert person.process.wait(HANG) == 130
