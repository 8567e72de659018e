"""Commands over folders of traps: no code of theirs runs, no control character reaches the output.

    uv run python -m tests.bench.traps --count 500 --seed 1

Each trial is a model folder with up to three traps, steering text in some values, and one command over it in
this process. Printed at the end: trials, code run, raw control characters, tracebacks.
"""

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from grpo_cli.cli.main import app
from tests.support.llama import write_llama
from tests.support.traps import REWARDS, STEERING, TRAPS, Trap

STEERS = ("Cc", "Cf", "Cs", "Zl", "Zp")
RUN_CONFIG = """
model_name = "tiny"
dataset = "arithmetic"
system_prompt = ""
completion_prefix = ""
max_steps = 1
num_generations = 2
max_new_tokens = 4
eval_steps = 0
output_dir = "{output}"
run_name = "{name}"
reward_functions = ["{reward}"]
"""


def steering(text: str) -> str:
    """The characters of an output that steer a terminal."""
    return "".join(
        sorted({char for char in text if unicodedata.category(char) in STEERS} - set("\n\t\u200c\u200d"))
    )


def run(*words: str) -> Result:
    """A command of grpo in this process, with nobody at the keyboard."""
    return CliRunner().invoke(app, list(words), input="y\ny\n")


def commands(model: Path) -> Iterator[list[str]]:
    """Every command that takes a model's folder or one of a run."""
    name, out = str(model), str(model.parent / "out")
    quick = ["--set", "max_steps=1", "--set", "num_generations=2", "--set", "max_new_tokens=4"]
    quick += ["--set", "eval_steps=0", "--set", f"output_dir={out}"]
    yield ["convert", name, "--output", f"{out}/m"]
    yield ["convert", name, "--output", f"{out}/q", "--quantize", "--group-size", "32"]
    yield ["convert", "--fuse", name, "--output", f"{out}/f"]
    yield ["convert", "--to", "nanochat", name, "--output", f"{out}/n"]
    yield ["generate", "--model", name, "--prompt", "1 + 1", "--max-tokens", "3"]
    yield ["eval", "--model", name, "--samples", "1", "--json"]
    yield ["train", "--config", "smoke_test", "--set", f"model_name={name}", "--dry-run", *quick]
    yield ["train", "--config", "smoke_test", "--set", f"model_name={name}", "--quiet", *quick]
    yield ["resume", name]
    yield ["doctor", "--model", name]
    yield ["doctor", "--checkpoint", name, "--json"]
    yield ["doctor", "--run", name]
    yield ["config", "validate", f"{name}/config.toml"]
    yield ["config", "show", f"{name}/config.toml"]


def steered(value: Any, chance: random.Random) -> Any:
    """A document with steering text in one of its texts or keys."""
    if isinstance(value, dict) and value:
        key = chance.choice(list(value))
        if chance.random() < 0.2:
            return value | {key + STEERING: value[key]}
        return value | {key: steered(value[key], chance)}
    return f"{value}{STEERING}" if isinstance(value, str) else value


def trial(folder: Path, chance: random.Random) -> tuple[list[str], Result, Path]:
    """One command over one folder; the file that trapped code would have written."""
    trap = Trap(write_llama(folder / "m"), folder / "sentinel")
    for name in chance.sample(list(TRAPS), chance.choice((1, 1, 2, 3))):
        TRAPS[name](trap)
    reward = chance.choice(REWARDS) if chance.random() < 0.5 else "correctness"
    reward = str(trap.folder / reward) if chance.random() < 0.5 else reward
    text = RUN_CONFIG.format(output=folder, name="m", reward=reward)
    (trap.folder / "config.toml").write_text(text)
    for path in sorted(trap.folder.glob("*.json")):
        if chance.random() < 0.1:
            path.write_text(json.dumps(steered(json.loads(path.read_text()), chance)))
    words = chance.choice(list(commands(trap.folder)))
    with contextlib.chdir(trap.folder if chance.random() < 0.5 else folder):
        return words, run(*words), trap.sentinel


def main() -> None:
    """Run the trials and print what was counted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    counts: Counter[str] = Counter()
    os.environ["HF_HUB_OFFLINE"] = "1"
    for number in range(chosen.count):
        chance = random.Random(f"{chosen.seed}-{number}")
        with tempfile.TemporaryDirectory() as folder:
            words, result, sentinel = trial(Path(folder), chance)
            found = {
                "code run": sentinel.exists(),
                "raw control characters": steering(result.output),
                "tracebacks": isinstance(result.exception, Exception),
            }
        counts.update(key for key, value in found.items() if value)
        if any(found.values()):
            told = {key: value for key, value in found.items() if value}
            print(f"{chosen.seed}-{number}: {words}: {told} {result.exception!r}", flush=True)
    print(json.dumps({"trials": chosen.count, **{key: counts[key] for key in found}}))
    sys.exit(bool(counts))


if __name__ == "__main__":
    main()
