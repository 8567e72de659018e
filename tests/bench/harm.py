"""The faults of a soak, played inside the run's own process, which the reward file of the soak starts.

    Harm(folder).set_up()       # folder holds plan.json: {"12": ["victim/forward", "kill/"], …}

Before each step the faults that the plan names for it are arranged, each once: `done.txt` survives the
process. After each step the rows that were computed at once are noted in `limits.txt`. The calm run that is
compared follows LAG steps behind and computes as many; its `follows` names the other folder. All else must
leave no trace in the weights.
"""

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlx.utils import tree_flatten

from grpo_cli.cli import restart
from grpo_cli.engine import train
from grpo_cli.engine.host import pressure, relief
from grpo_cli.engine.host.facts import WARNING, HostFacts
from tests.support.device_faults import PLACES, TEXTS, Faults

HOUR = (
    60.0  # seconds that stand for the hour of the bounds on restarts: the run is so much shorter than a night
)
SHORT_READINGS = 3  # the third pauses the run
LAG = 200  # steps; a killed run goes back to its newest checkpoint, after failed saves 60 steps and more
PIECE = 1 << 16  # bytes by which a disk is filled


class Harm:
    """Plays the faults of the plan in `folder`. `disk`: a file on the run's disk that may fill it."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self.folder, self.ballast = folder, disk / "ballast"
        self.plan: dict[str, list[str]] = json.loads((folder / "plan.json").read_text())
        follows = folder / "follows"
        self.followed = Path(follows.read_text()) if follows.exists() else None
        self.limits: dict[int, list[Any]] = {}  # of the followed run
        self.faults = {place: Faults(place, "", ()) for place in PLACES}
        self.readings: list[HostFacts] = []
        self.fills = False  # the disk, at the next checkpoint

    def set_up(self) -> None:
        """Stand between the training loop and its steps."""
        self.ballast.unlink(missing_ok=True)  # somebody cleaned up before the run is started again
        restart.HOUR, pressure.EVERY, pressure.REST, relief.TICK = HOUR, 0.0, HOUR, 0.01
        for one in self.faults.values():
            one.set_up(pytest.MonkeyPatch())
        real = train.train_step

        def train_step(run: Any, step: int, log: Any) -> None:
            self.before(run, step)
            real(run, step, log)
            self.after(run, step)

        train.train_step = train_step

    def before(self, run: Any, step: int) -> None:
        """Measure the process, and arrange the faults of this step."""
        self.ballast.unlink(missing_ok=True)
        note(self.folder / "measured.txt", f"{step} {resident()} {open_files()}")
        self.set_limits(run, step)
        read = run.pressure.read
        if not isinstance(getattr(read, "__self__", None), Harm):
            self.read, run.pressure.read = read, self.reading
        done = self.folder / "done.txt"
        before = done.read_text().splitlines() if done.exists() else []
        for fault in self.plan.get(str(step), []):
            if f"{step} {fault}" not in before:
                note(done, f"{step} {fault}")
                self.play(*fault.split("/"))
        if self.fills and run.is_due(step, run.config.save_steps, last=False) and step < run.total_steps:
            self.fills = False
            fill(self.ballast)

    def after(self, run: Any, step: int) -> None:
        """Note how many rows this step computed at once."""
        update, rollouts = run.update_limit, run.rollout_limit
        limits = [update.rows, rollouts.rows, rollouts.prefill_tokens]
        note(self.folder / "limits.txt", f"{step} {json.dumps(limits)}")
        note(self.folder / "weights.txt", f"{step} {digest(run)}")

    def set_limits(self, run: Any, step: int) -> None:
        """Compute as many rows at once as the followed run did in this step, when it last made it."""
        if self.followed is None:
            return
        if step not in self.limits:
            self.limits = self.limits_from(self.followed, step + LAG)
        update, rollouts, prefill = self.limits[step]
        run.update_limit.rows, run.rollout_limit.rows, run.rollout_limit.prefill_tokens = (
            update, rollouts, prefill
        )  # fmt: skip

    def limits_from(self, folder: Path, step: int) -> dict[int, list[Any]]:
        """The limits that will not change any more, once the run has come to `step` or has ended."""
        while True:
            has_ended = (folder / "ended").exists()
            lines = (
                (folder / "limits.txt").read_text().splitlines() if (folder / "limits.txt").exists() else []
            )
            found = {int(step): json.loads(limits) for step, limits in (line.split(" ", 1) for line in lines)}
            if has_ended or (found and max(found) >= step):
                last = max(found)
                return {one: limits for one, limits in found.items() if has_ended or one <= last - LAG}
            time.sleep(0.5)

    def reading(self) -> HostFacts:
        """The next reading of the machine: the plan's, or a real one."""
        return self.readings.pop(0) if self.readings else self.read()

    def play(self, kind: str, place: str) -> None:
        """Arrange one fault."""
        if kind == "kill":  # at a random moment of the coming steps
            threading.Timer(random.random(), os.kill, (os.getpid(), 9)).start()
        elif kind == "pressure":
            self.readings = [HostFacts(memory=WARNING)] * SHORT_READINGS
        elif kind == "disk":
            self.fills = True
        else:
            fault = self.faults[place]
            times = 2 if kind == "resource limit" else 1  # the second asks for a new process
            fault.text, fault.at = TEXTS[kind], range(fault.calls + 1, fault.calls + 1 + times)


def note(path: Path, line: str) -> None:
    """Append a line to a file."""
    with path.open("a") as file:
        file.write(f"{line}\n")


def fill(path: Path) -> None:
    """Fill the disk of a file to the last byte."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(PIECE))


def digest(run: Any) -> str:
    """A digest of the weights and of the optimizer's state."""
    found = hashlib.blake2b(digest_size=16)
    for state in (run.policy.model.trainable_parameters(), run.optimizer.rule.state):
        for name, array in sorted(tree_flatten(state)):
            found.update(name.encode() + memoryview(array).cast("B") if array.ndim else name.encode())
    return found.hexdigest()


def resident() -> int:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def open_files() -> int:
    """Open descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def drawn(steps: int, chance: random.Random, every: Callable[[str], int]) -> dict[str, list[str]]:
    """A plan: the faults of each step, of each kind one in `every(kind)` steps on average."""
    plan: dict[str, list[str]] = {}
    for step in range(2, steps):
        faults = []
        if chance.random() < 1 / every("failure"):
            faults.append(f"{chance.choice(list(TEXTS))}/{chance.choice(PLACES)}")
        faults += [f"{kind}/" for kind in ("disk", "pressure", "kill") if chance.random() < 1 / every(kind)]
        if faults:
            plan[str(step)] = faults
    return plan
