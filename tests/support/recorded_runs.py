"""Runs whose environments write down each call, as programs of their own that can be killed.

    python -m tests.support.recorded_runs FOLDER tools train hold    # stops at a call in the second step
    python -m tests.support.recorded_runs FOLDER tools resume

FOLDER/calls gets a line for each call. `tools` has a function as a tool, `game` a user's class with a state.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine.resume import resume
from grpo_cli.engine.train import train
from grpo_cli.environments.protocol import Environment
from grpo_cli.environments.session import Limits, Session
from grpo_cli.environments.tool_calls import ParsedTurn
from grpo_cli.environments.tool_environment import ToolEnvironment
from grpo_cli.environments.tooling import Tooling
from grpo_cli.environments.tools import Call, Tool
from grpo_cli.environments.user import UserEnvironment
from tests.support import digits, forked
from tests.support.small_runs import SHORT, small
from tests.support.waiting import NEVER

ANSWERS = 2  # turns of a rollout that are answered


class Witness:
    """Writes calls down, and holds one for ever if it is told to."""

    def __init__(self, folder: Path, holds: bool) -> None:
        self.folder, self.holds, self.lock = folder, holds, threading.Lock()

    def note(self, call: str) -> None:
        """Write a call down; with `holds`, the first one of the second step does not return."""
        with self.lock:
            line = f"{json.dumps(call)}\n".encode()
            descriptor = os.open(self.folder / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, line)
            os.close(descriptor)
            is_held = self.holds and (self.folder / "run/checkpoint-1").exists()
            self.holds = self.holds and not is_held
        if is_held:
            (self.folder / "held").touch()
            time.sleep(NEVER)


class EveryTurn:
    """A parser for which the first turns are calls, whatever the model writes."""

    def parse(self, text: str, schemas: Any, first: int = 0) -> ParsedTurn:  # noqa: ARG002
        """A call of `measure` with the turn's text."""
        if first == ANSWERS:
            return ParsedTurn(text)
        return ParsedTurn("", [Call(name="measure", arguments={"text": text}, id=f"call{first:05d}")])


class Game:
    """A user's environment with a state: the length of all turns so far."""

    def __init__(self, witness: Witness) -> None:
        self.witness, self.length, self.answered = witness, 0, 0

    def reset(self) -> None:
        """Nothing to say."""

    def respond(self, text: str) -> str | None:
        """The length so far."""
        self.witness.note(text)
        self.length += len(text)
        self.answered += 1
        return None if self.answered > ANSWERS else str(self.length)

    def get_reward(self) -> float:
        """Depends on all turns."""
        return self.length / 10


def environment_of(kind: str, witness: Witness) -> Environment:
    """The environment of one rollout."""
    if kind == "game":
        return UserEnvironment(Game(witness))

    def measure(text: str) -> str:
        """Measure a text.

        Args:
            text: The text.
        """
        witness.note(text)
        return str(len(text))

    return ToolEnvironment([Tool.of(measure, "here")], EveryTurn())  # type: ignore[arg-type]


def render(assistant: Any, ended: bool, replies: Any) -> list[int]:  # noqa: ARG001
    """The ids of a reply, which depend on its text."""
    return [40, 50, *(60 + int(digit) for digit in replies[0]["content"] if digit.isdigit())]


def run(folder: Path, kind: str, command: str, holds: bool) -> None:
    """Train or resume the run of a folder."""
    witness = Witness(folder, holds)

    def session(_: object) -> Session:
        return Session(environment_of(kind, witness), Limits(max_result_tokens=60), render)

    reward = {"reward_functions": ["environment" if kind == "game" else f"{digits.__file__}:mean_digit"]}
    short = {**SHORT, "model_name": "tiny"}  # which is there in every process
    settings = {**short, "max_steps": 3, "save_steps": 1, "temperature": 1.0, "max_new_tokens": 60, **reward}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grpo_cli.engine.setup.tooling_of", lambda *_: Tooling(session))
        if command == "train":
            train(small(folder, **settings))
        else:
            resume(folder / "run")


def started(folder: Path, kind: str, command: str, *more: str) -> forked.Running:
    """The same as a program of its own."""
    folder.mkdir(exist_ok=True)
    words = ["-m", "tests.support.recorded_runs", str(folder), kind, command, *more]
    return forked.start(words, cwd=forked.ROOT)


def calls(folder: Path) -> list[str]:
    """The calls that were made so far."""
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], "hold" in sys.argv)
