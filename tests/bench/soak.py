"""A long run on a machine that fails again and again, compared with a calm one.

    uv run python -m tests.bench.soak --steps 2000

Faults are drawn at random (harm.py): a failure of the device of any class at any place about every 50 steps,
kill -9 about every 200, memory pressure about every 250, a full disk about every 100. Run as root, the disk
is a real one of 96 MB that is filled to the last byte; else there are no such faults. The run must end by
itself under `--supervise`, and its final weights must be byte for byte those of a calm run, which follows
some steps behind and computes as many rows at once. Resident memory and open files are measured before every
step. MLX on a CPU has none of these failures of its own: a reward file plays them.
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grpo_cli.engine.run_dir.incidents import read_incidents
from tests.bench.harm import HOUR, drawn

EVERY = {"failure": 50, "kill": 200, "pressure": 250, "disk": 100}  # steps
DISK_MB = 96
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
gradient_accumulation_steps = 1
num_generations = 4
max_new_tokens = 8
eval_max_new_tokens = 8
eval_steps = 250
eval_samples = 4
save_steps = 20
keep_checkpoints = 1
log_completions = 0
temperature = 1.5
learning_rate = 1e-5
output_dir = "{output}"
run_name = "run"
"""
# It is loaded in the run's process, before the first step.
REWARD = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.bench.harm import Harm
Harm(Path({folder!r}), Path({disk!r})).set_up()

def mean_letter(completions, **_):
    return [sum(map(ord, text)) % 97 / 97 for text in completions]
"""
# `grpo train --supervise` with a short hour, and short waits before a restart
PARENT = """
import sys
from grpo_cli import supervise
supervise.HOUR, supervise.WAIT_SECONDS = {hour}, 0.2
sys.exit(supervise.Supervisor(sys.argv[1:]).run())
"""


@dataclass(frozen=True)
class Part:
    """One of the two runs."""

    folder: Path  # with its files of harm.py
    run_dir: Path
    code: int
    seconds: float

    @property
    def weights(self) -> bytes:
        """The final weights; empty if there are none."""
        path = self.run_dir / "final" / "model.safetensors"
        return path.read_bytes() if path.exists() else b""

    @property
    def learned(self) -> int:
        """Logged steps whose gradient was not 0: without any, equal weights would say nothing."""
        lines = (self.run_dir / "training_log.jsonl").read_text().splitlines()
        return sum((json.loads(line).get("grad_norm") or 0) > 0 for line in lines)

    def measured(self, column: int) -> tuple[int, int]:
        """Medians of the first and of the last tenth of the steps; 1: MB resident, 2: open files."""
        lines = (self.folder / "measured.txt").read_text().splitlines()
        values = [int(line.split()[column]) for line in lines]
        tenth = max(1, len(values) // 10)
        return (sorted(values[:tenth])[tenth // 2], sorted(values[-tenth:])[tenth // 2])

    def noted(self, name: str) -> dict[str, str]:
        """One of the files of harm.py, by step, as it was computed last."""
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        return dict(line.split(" ", 1) for line in lines)  # type: ignore[arg-type]


def first_difference(harmed: Part, calm: Part) -> str:
    """The first step after which weights or optimizer differ; empty if none does."""
    one, other = (part.noted("weights.txt") for part in (harmed, calm))
    steps = [int(step) for step, digest in one.items() if other.get(step) != digest]
    return f"; the first difference after step {min(steps)}" if steps else ""


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A small disk at `folder` within the block; False if it may not be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=False)


def run(folder: Path, disk: Path, steps: int, plan: dict[str, list[str]]) -> Part:
    """One supervised run with the faults of a plan."""
    (folder / "plan.json").write_text(json.dumps(plan))
    reward, config = folder / "reward.py", folder / "run.toml"
    root = Path(__file__).parents[2]
    reward.write_text(REWARD.format(root=str(root), folder=str(folder), disk=str(disk)))
    config.write_text(SETTINGS.format(reward=reward, steps=steps, output=disk))
    words = [sys.executable, "-c", PARENT.format(hour=HOUR), "train", "--config", str(config), "--quiet"]
    started = time.monotonic()
    with (folder / "stderr.txt").open("wb") as file:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stderr=file, check=False, cwd=root, env={**os.environ}
        )
    return Part(folder, disk / "run", done.returncode, time.monotonic() - started)


def soak(folder: Path, steps: int, seed: int) -> tuple[Part, Part, Counter[str]]:
    """The harmed run, the calm one, and what the first one says that it met."""
    for name in ("harmed", "calm"):
        (folder / name).mkdir()
    kept = folder / "harmed" / "run"
    (folder / "calm" / "follows").write_text(str(folder / "harmed"))
    with ThreadPoolExecutor() as pool, small_disk(folder / "disk") as is_real:
        waiting = pool.submit(run, folder / "calm", folder / "calm", steps, {})
        every = EVERY if is_real else {**EVERY, "disk": 10 * steps}
        plan = drawn(steps, random.Random(seed), every.__getitem__)
        harmed = run(folder / "harmed", folder / "disk", steps, plan)
        (folder / "harmed" / "ended").touch()
        subprocess.run(["cp", "-r", harmed.run_dir, kept], check=True)
        calm = waiting.result()
    harmed = Part(harmed.folder, kept, harmed.code, harmed.seconds)
    return harmed, calm, Counter(incident.kind for incident in read_incidents(kept))


def main() -> None:
    """Run the soak and print its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep everything in this new folder")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = chosen.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        harmed, calm, met = soak(folder, chosen.steps, chosen.seed)
        is_equal = harmed.weights == calm.weights != b""
        played = Counter(
            line.split(" ", 1)[1].split("/")[0]
            for line in (harmed.folder / "done.txt").read_text().splitlines()
        )
        if harmed.code or calm.code:
            print((harmed.folder / "stderr.txt").read_text()[-3000:])
        words = "byte-equal" if is_equal else "DIFFERENT"
        print(
            f"{chosen.steps} steps, {calm.learned} with a gradient; exit codes {harmed.code} and {calm.code}"
        )
        print(f"final weights {words}{first_difference(harmed, calm)}")
        print("played:", ", ".join(f"{kind} {count}" for kind, count in played.most_common()))
        print("recorded:", ", ".join(f"{kind} {count}" for kind, count in met.most_common()))
        for name, part in (("harmed", harmed), ("calm", calm)):
            memory, files = part.measured(1), part.measured(2)
            print(f"{name}: {part.seconds:.0f} s; resident memory {memory[0]} → {memory[1]} MB, open files "
                  f"{files[0]} → {files[1]}")  # fmt: skip


if __name__ == "__main__":
    main()
