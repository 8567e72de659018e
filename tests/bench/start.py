"""`python -m tests.bench.start`: how long `grpo train` takes to its first step, `grpo eval` to its scores.

    python -m tests.bench.start                        # the embedded model
    python -m tests.bench.start --model ./SmolLM2
    python -m tests.bench.start --source               # as after each edit: no module's bytecode is kept

The yardstick is `import mlx_lm` and reading the weights. Everything runs in turns, in processes of its own,
with bytecode that a first round has written; CPU seconds (user and system) and wall seconds are medians.

    started     `grpo train` says what it trains: all is loaded and tried, the first step comes next
    stepped     the line of its first step: 2 completions of 1 token
    evaluated   `grpo eval` has printed its scores: 1 completion of 1 token, so it is past its first token
    rows        `started` with 100,000 rows in a file in place of 100
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[2]
YARDSTICK = """
import glob, sys, mlx_lm, mlx.core as mx
for path in glob.glob(sys.argv[1] + "/model*.safetensors"):
    mx.eval(mx.load(path))
"""
CONFIG = """
eval_steps = 0
max_steps = 2
num_generations = 2
max_new_tokens = 1
batch_size = 1
eval_samples = 1
eval_max_new_tokens = 1
"""
FEW, MANY = 100, 100_000  # rows of the two files

Times = tuple[float, float]  # CPU seconds, wall seconds


def main(
    model: Annotated[str, typer.Option(help="A model folder, or `tiny`.")] = "tiny",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds after the first; the median counts.")] = 5,
    source: Annotated[bool, typer.Option(help="Compile every module each time.")] = False,
) -> None:
    """Print CPU and wall seconds of each part, and their ratio to the yardstick's."""
    model = model if model == "tiny" else str(Path(model).resolve())
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        commands = {name: commands_of(name, model) for name in ("few", "many")}
        parts: dict[str, tuple[list[str], str]] = {
            "yardstick": ([sys.executable, "-c", YARDSTICK, str(weights_of(model))], ""),
            "started": (commands["few"]["train"], "model "),
            "stepped": (commands["few"]["train"], "step 1"),
            "evaluated": (commands["few"]["eval"], ""),
            "rows": (commands["many"]["train"], "model "),
        }
        environment = environment_of(Path(folder), source)
        rounds = [
            {name: spent(*part, environment) for name, part in parts.items()} for _ in range(repeats + 1)
        ]
    show({name: middle([times[name] for times in rounds[1:]]) for name in parts})


def weights_of(model: str) -> Path:
    """The folder of the weights."""
    return ROOT / "grpo_cli/models/tiny" if model == "tiny" else Path(model)


def commands_of(name: str, model: str) -> dict[str, list[str]]:
    """Write the rows and the configuration of one size; `grpo train` and `grpo eval` with them."""
    rows = Path(f"{name}.jsonl")
    with rows.open("w") as file:
        for number in range(FEW if name == "few" else MANY):
            row = {"question": f"What is {number} + 7?", "answer": str(number + 7)}
            file.write(json.dumps(row) + "\n")
    keys = {"model_name": model, "dataset": str(rows), "run_name": name, "eval_split": "train"}
    config = Path(f"{name}.toml")
    config.write_text(CONFIG + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    grpo = [sys.executable, "-m", "grpo_cli"]
    return {
        "train": [*grpo, "train", "--config", str(config)],
        "eval": [*grpo, "eval", model, "--config", str(config)],
    }


def environment_of(folder: Path, source: bool) -> dict[str, str]:
    """The variables of a process that keeps bytecode in a folder of its own, or keeps none."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    bytecode = {"PYTHONDONTWRITEBYTECODE": "1"} if source else {}
    return kept | bytecode | {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def spent(command: list[str], line: str, environment: dict[str, str]) -> Times:
    """CPU and wall seconds until a line of stderr that begins with `line`, or to the end if it is empty."""
    shutil.rmtree("outputs", ignore_errors=True)
    before, began = children(), time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        said = []
        for text in process.stderr:
            said.append(text)
            if line and text.startswith(line):
                process.kill()
                break
        wall = time.perf_counter() - began
        process.wait()
    if process.returncode and not (line and said and said[-1].startswith(line)):
        raise SystemExit("".join(said))
    return children() - before, wall


def children() -> float:
    """CPU seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def middle(times: list[Times]) -> Times:
    """The medians of CPU and of wall seconds."""
    cpu, wall = zip(*times, strict=True)
    return statistics.median(cpu), statistics.median(wall)


def show(times: dict[str, Times]) -> None:
    """Print one line of a table for each part."""
    base = times["yardstick"]
    print("| part | CPU s | ratio | wall s | ratio |\n|---|---|---|---|---|")
    for name, (cpu, wall) in times.items():
        print(f"| {name} | {cpu:.2f} | {cpu / base[0]:.2f} | {wall:.2f} | {wall / base[1]:.2f} |")


if __name__ == "__main__":
    typer.run(main)
