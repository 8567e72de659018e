"""Several ranks on one machine: killed one after the other, and timed beside one rank.

    uv run python -m tests.bench.ranks --kills 10 [--ranks 3]
    uv run python -m tests.bench.ranks --throughput [--model DIR] [--repeats 3]

Killing: SIGKILL hits each rank in turn at a random moment. The others must end within 10 s with an exit code
that is not 0; at the end weights, optimizer and log must be byte for byte those of a run left alone.
Throughput: the same steps by 1 and by 2 ranks, in turns, each rank with its share of the cores.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.torture import SETTINGS, intact_steps, log, newest_step
from tests.support import letter_reward
from tests.support.started_ranks import Ranks

SAME = ("final/model.safetensors", "final/optimizer.safetensors", "completions.jsonl")
SPEED = """
model_name = {model}
dataset = "arithmetic"
system_prompt = ""
completion_prefix = ""
max_steps = {steps}
batch_size = 1
gradient_accumulation_steps = 4
num_generations = 8
max_new_tokens = 64
eval_steps = 0
save_steps = 0
temperature = 1.0
learning_rate = 1e-6
kl_coeff = 0.01
output_dir = {output}
run_name = {name}
"""  # the KL term gives every completion a gradient


def settings(folder: Path, name: str, steps: int) -> Path:
    """The configuration of a run that is to be killed."""
    file = folder / f"{name}.toml"
    file.write_text(
        SETTINGS.format(reward=letter_reward.__file__, steps=steps, output=folder / "outputs", name=name)
    )
    return file


def start(file: Path, ranks: int) -> Ranks:
    """Begin the run of a configuration, or go on with it."""
    run_dir = file.parent / "outputs" / file.stem
    words = ["resume", str(run_dir)] if run_dir.exists() else ["train", "--config", str(file)]
    return Ranks([["-m", "grpo_cli", *words, "--quiet"]] * ranks)


def kill_one(file: Path, ranks: int, victim: int, chance: random.Random) -> float:
    """Kill a rank at a random moment; seconds until the others had ended."""
    run_dir = file.parent / "outputs" / file.stem
    begun, running = newest_step(run_dir), start(file, ranks)
    while newest_step(run_dir) <= begun and all(process.poll() is None for process in running.processes):
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 1.5))
    assert running.processes[victim].poll() is None, running.wait()
    running.processes[victim].send_signal(signal.SIGKILL)
    started = time.monotonic()
    ended = running.wait()
    seconds = time.monotonic() - started
    others = [code for rank, (code, _, _) in enumerate(ended) if rank != victim]
    assert all(code == 1 for code in others), ended
    told = "".join(errors for _, _, errors in ended)
    assert f"rank {victim} (" in told and "is gone" in told, told
    return seconds


def kills(folder: Path, ranks: int, count: int, seed: int) -> None:
    """Kill each rank in turn, so many times, let the run end, and compare it with one left alone."""
    steps, chance = 12 * count, random.Random(seed)
    whole, broken = settings(folder, "whole", steps), settings(folder, "broken", steps)
    assert [code for code, _, _ in start(whole, ranks).wait()] == [0] * ranks
    highest, seconds = 0, []
    for turn in range(count):
        seconds.append(kill_one(broken, ranks, turn % ranks, chance))
        newest = max(intact_steps(folder / "outputs" / "broken"), default=0)
        assert newest >= highest, f"after kill {turn + 1}: step {newest} after {highest}"
        highest = newest
        print(f"killed rank {turn % ranks}: the others ended in {seconds[-1]:.1f} s, step {newest} is intact")
    assert [code for code, _, _ in start(broken, ranks).wait()] == [0] * ranks
    folders = [folder / "outputs" / name for name in ("whole", "broken")]
    for file in SAME:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file
    assert log(folders[0]) == log(folders[1])
    print(
        f"{count} kills of {ranks} ranks, ended after {max(seconds):.1f} s at most; byte-equal to a whole run"
    )


def step_seconds(folder: Path, model: str, ranks: int, steps: int, turn: int) -> float:
    """Seconds of a step by so many ranks: the median but for the first one."""
    name = f"of-{ranks}-{turn}"
    file = folder / f"{name}.toml"
    output = json.dumps(str(folder / "outputs"))
    file.write_text(SPEED.format(model=json.dumps(model), steps=steps, output=output, name=json.dumps(name)))
    words = ["-m", "grpo_cli", "train", "--config", str(file), "--quiet"]
    os.environ.pop("OPENBLAS_NUM_THREADS", None)
    ended = Ranks([words] * ranks).wait()
    assert [code for code, _, _ in ended] == [0] * ranks, ended
    lines = [json.loads(line) for line in (folder / "outputs" / name / "training_log.jsonl").open()]
    return statistics.median(line["step_seconds"] for line in lines if line["step"] > 1)


def throughput(folder: Path, model: str, steps: int, repeats: int) -> None:
    """One and two ranks in turns, and the ratio."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(repeats):
        for ranks in seconds:
            seconds[ranks].append(step_seconds(folder, model, ranks, steps, turn))
    one, two = (statistics.median(seconds[ranks]) for ranks in (1, 2))
    print(f"{model}: a step takes 1 rank {one:.2f} s, 2 ranks {two:.2f} s: {one / two:.2f} times as fast")


def main() -> None:
    """Parse the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.kills:
            kills(Path(name), arguments.ranks, arguments.kills, arguments.seed)
        if arguments.throughput:
            throughput(Path(name), arguments.model, arguments.steps, arguments.repeats)
    if not (arguments.kills or arguments.throughput):
        sys.exit("nothing to do: --kills 10, or --throughput")


if __name__ == "__main__":
    main()
