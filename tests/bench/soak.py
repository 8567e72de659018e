"""A long run on a machine that fails again and again, compared with a calm one.

    uv run python -m tests.bench.soak --steps 2000

Failures of the device are drawn at random, a class about every 50 steps at one place of the step, kill -9
about every 200 steps, and saves that a full disk refuses. The run must end by itself under `--supervise`, and
its final weights must be byte for byte those of the calm run where no failure divides rows. Resident memory
and open files are measured in every step. This process plays the faults through a reward file: MLX on a CPU
has none of these failures of its own.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from grpo_cli.engine.run_dir.incidents import read_incidents

DIVIDING = ("metal memory", "timeout", "interactivity", "page fault")  # they compute fewer rows at once
REPEATING = ("victim", "resource limit")
SETTINGS = """
model_name = "tiny"
dataset = "arithmetic"
system_prompt = ""
completion_prefix = ""
reward_functions = ["{reward}:mean_letter"]
max_train_samples = 60
num_epochs = 100000
max_steps = {steps}
batch_size = 2
num_generations = 4
max_new_tokens = 12
eval_steps = 0
save_steps = 10
keep_checkpoints = 2
temperature = 1.5
learning_rate = 1e-5
output_dir = "{output}"
run_name = "{name}"
"""
# The reward is called once a step; it is loaded in the run's process, before the first step.
REWARD = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.bench.soak import Harm
HARM = Harm(Path(__file__).with_name("plan.json"))

def mean_letter(completions, trainer_state=None, **_):
    HARM.step(trainer_state.global_step + 1)
    return [sum(map(ord, text[:8])) % 97 / 97 for text in completions]
"""


@dataclass(frozen=True)
class Result:
    """Measurements of one soak."""

    seconds: float
    incidents: Counter[str]
    is_equal: bool
    code: int
    memory: tuple[int, int]  # MB resident: the median of the first and of the last tenth of the steps
    files: tuple[int, int]  # open files, likewise


class Harm:
    """Plays the faults that a plan names for a step, each once: the plan's file survives the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = path.with_name("done.txt")

    def step(self, step: int) -> None:
        """Measure the process, and arrange the faults of this step."""
        with self.path.with_name("measured.txt").open("a") as file:
            file.write(f"{step} {resident()} {open_files()}\n")
        wanted = json.loads(self.path.read_text()).get(str(step), [])
        done = self.done.read_text().split("\n") if self.done.exists() else []
        for fault in wanted:
            if (line := f"{step} {fault}") not in done:
                with self.done.open("a") as file:
                    file.write(f"{line}\n")
                self.play(*fault.split("/"))

    def play(self, kind: str, place: str) -> None:
        """Arrange one fault: the next call at its place fails, or the process is killed at once."""
        if kind == "kill":
            os.kill(os.getpid(), 9)
        import pytest

        from tests.support.device_faults import TEXTS, Faults

        text = "[save] Unable to write: No space left on device" if kind == "disk" else TEXTS[kind]
        times = 2 if kind == "resource limit" and place == "backward" else 1  # the second asks for a process
        Faults(place, text, range(1, times + 1)).set_up(pytest.MonkeyPatch())


def resident() -> int:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def open_files() -> int:
    """Open descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def plan_of(steps: int, chance: random.Random, divides: bool) -> dict[str, list[str]]:
    """The faults of each step."""
    kinds = REPEATING + (DIVIDING if divides else ())
    places = ("forward", "backward", "optimizer", "saving")
    plan: dict[str, list[str]] = {}
    for step in range(2, steps):
        faults = []
        if chance.random() < 1 / 50:
            faults.append(f"{chance.choice(kinds)}/{chance.choice(places)}")
        if chance.random() < 1 / 100:
            faults.append("disk/saving")
        if chance.random() < 1 / 200:
            faults.append("kill/")
        if faults:
            plan[str(step)] = faults
    return plan


def run(folder: Path, name: str, steps: int, plan: dict[str, list[str]]) -> tuple[int, Path]:
    """One supervised run: its exit code and its folder."""
    place = folder / name
    place.mkdir()
    (place / "plan.json").write_text(json.dumps(plan))
    (place / "reward.py").write_text(REWARD.format(root=str(Path(__file__).parents[2])))
    config = place / "run.toml"
    config.write_text(
        SETTINGS.format(reward=place / "reward.py", steps=steps, output=place / "outputs", name="run")
    )
    words = [sys.executable, "-m", "grpo_cli", "train", "--config", str(config), "--supervise", "--quiet"]
    with (place / "stderr.txt").open("wb") as file:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stderr=file, check=False)
    return done.returncode, place / "outputs" / "run"


def measured(place: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Memory and open files: the medians of the first and the last tenth of the steps."""
    rows = [
        [int(text) for text in line.split()] for line in (place / "measured.txt").read_text().splitlines()
    ]
    tenth = max(1, len(rows) // 10)

    def median(part: list[list[int]], column: int) -> int:
        return sorted(row[column] for row in part)[len(part) // 2]

    first, last = rows[:tenth], rows[-tenth:]
    return (median(first, 1), median(last, 1)), (median(first, 2), median(last, 2))


def soak(folder: Path, steps: int, seed: int, divides: bool) -> Result:
    """A calm run and a harmed one."""
    chance = random.Random(seed)
    _, calm = run(folder, "calm", steps, {})
    started = time.monotonic()
    code, harmed = run(folder, "harmed", steps, plan_of(steps, chance, divides))
    seconds = time.monotonic() - started
    weights = [path / "final" / "model.safetensors" for path in (calm, harmed)]
    is_equal = all(path.exists() for path in weights) and weights[0].read_bytes() == weights[1].read_bytes()
    memory, files = measured(folder / "harmed")
    kinds = Counter(incident.kind for incident in read_incidents(harmed))
    return Result(seconds, kinds, is_equal, code, memory, files)


def main() -> None:
    """Run the soak and print its result in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--divides", action="store_true", help="also failures after which rows are divided")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = soak(Path(name), chosen.steps, chosen.seed, chosen.divides)
        if found.code:
            print((Path(name) / "harmed" / "stderr.txt").read_text()[-3000:])
    print(
        f"{chosen.steps} steps in {found.seconds:.0f} s, exit code {found.code}; "
        f"{', '.join(f'{kind} {count}' for kind, count in found.incidents.items())}; final weights "
        f"{'byte-equal' if found.is_equal else 'DIFFERENT'}; resident memory {found.memory[0]} → "
        f"{found.memory[1]} MB, open files {found.files[0]} → {found.files[1]}"
    )


if __name__ == "__main__":
    main()
