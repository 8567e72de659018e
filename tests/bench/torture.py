"""Kill a run again and again, resume it each time, and compare it with one that was left alone.

    uv run python -m tests.bench.torture --kills 30

SIGKILL comes at random moments, every other time while a checkpoint is being written. At the end weights and
log must be byte for byte those of the uninterrupted run, and no intact checkpoint may ever have got lost.
"""

import argparse
import contextlib
import json
import random
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from grpo_cli.engine.run_dir.manifest import checkpoints, damage
from grpo_cli.engine.run_dir.run_state import read_state
from tests.support import forked, letter_reward

TIMES = ("rollout_seconds", "update_seconds", "step_seconds", "rollout_tokens_per_second", "peak_memory_gb",
         "cache_memory_gb", "eval_seconds")  # fmt: skip
SETTINGS = """
model_name = "tiny"
dataset = "arithmetic"
system_prompt = ""
completion_prefix = ""
reward_functions = ["{reward}:mean_letter"]
max_train_samples = 60
num_epochs = 1000
max_steps = {steps}
batch_size = 2
num_generations = 4
max_new_tokens = 12
eval_max_new_tokens = 12
eval_steps = 5
eval_samples = 4
save_steps = 3
keep_checkpoints = 2
temperature = 1.5
learning_rate = 1e-5
output_dir = "{output}"
run_name = "{name}"
"""


@dataclass
class Report:
    """What happened."""

    kills: int = 0
    inside_saves: int = 0
    lost: list[str] = field(default_factory=list)  # intact checkpoints that were gone after a kill


def start(folder: Path, name: str, steps: int, resume: bool) -> forked.Running:
    """Begin a run, or go on with it."""
    config = folder / f"{name}.toml"
    config.write_text(
        SETTINGS.format(reward=letter_reward.__file__, steps=steps, output=folder / "outputs", name=name)
    )
    words = ["resume", str(folder / "outputs" / name)] if resume else ["train", "--config", str(config)]
    return forked.start(
        ["-m", "grpo_cli", *words, "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def ended(process: forked.Running) -> None:
    """Wait for a run's end. AssertionError with its words where it failed."""
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def kill_at_some_moment(
    process: forked.Running, run_dir: Path, chance: random.Random, report: Report
) -> bool:
    """Kill the process at a random moment of its work, or of its writing; whether it still ran then."""
    begun, started = newest_step(run_dir), time.time()

    def writing() -> bool:
        return is_written(run_dir, started)

    while process.poll() is None and newest_step(run_dir) <= begun:
        time.sleep(0.005)  # until it has loaded and saved
    deadline = time.monotonic() + chance.uniform(0, 1.0)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    if chance.random() < 0.5:
        while process.poll() is None and not writing():
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.02))
    if process.poll() is not None:
        return False
    report.inside_saves += writing()
    process.send_signal(signal.SIGKILL)
    process.wait()
    report.kills += 1
    return True


def is_written(run_dir: Path, since: float) -> bool:
    """Whether a checkpoint is being written, and not only left so by the last kill."""
    for path in run_dir.glob(".*grpo-tmp*"):
        with contextlib.suppress(FileNotFoundError):  # it was complete, and renamed
            if path.stat().st_mtime > since:
                return True
    return False


def newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint by name, -1 without one."""
    names = [path.name.removeprefix("checkpoint-") for path in run_dir.glob("checkpoint-*")]
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def intact_steps(run_dir: Path) -> set[int]:
    """The steps of all intact checkpoints."""
    return {read_state(folder)[0].step for folder in checkpoints(run_dir) if damage(folder) is None}


def torture(folder: Path, kills: int, seed: int = 0) -> Report:
    """Kill a run so many times and let it end. AssertionError where it is not the uninterrupted one."""
    chance, report, steps = random.Random(seed), Report(), 8 * kills
    whole, broken = (folder / "outputs" / name for name in ("whole", "broken"))
    ended(start(folder, "whole", steps, resume=False))
    highest = 0
    while report.kills < kills:
        process = start(folder, "broken", steps, resume=broken.exists())
        if not kill_at_some_moment(process, broken, chance, report):
            ended(process)
            break
        newest = max(intact_steps(broken), default=0)
        if newest < highest:
            report.lost.append(f"after kill {report.kills}: step {newest} after {highest}")
        highest = max(highest, newest)
    ended(start(folder, "broken", steps, resume=True))
    assert report.lost == []
    for file in ("final/model.safetensors", "final/optimizer.safetensors", "completions.jsonl"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes(), file
    assert log(whole) == log(broken)
    assert not list(broken.glob(".*grpo-tmp*")) + list(broken.glob(".*.grpo-old"))
    return report


def log(run_dir: Path) -> list[dict[str, object]]:
    """The log without what the clock and the machine say."""
    lines = [json.loads(line) for line in (run_dir / "training_log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        report = torture(Path(name), chosen.kills, chosen.seed)
    print(
        f"{report.kills} kills, {report.inside_saves} of them while a checkpoint was written; weights, "
        "optimizer state and log as of the uninterrupted run; no intact checkpoint lost; "
        f"{time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
