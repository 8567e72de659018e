"""The benchmark of this checkout beside that of an earlier commit, in turns.

    python -m tests.bench.versus 2408ef6~1 --rounds 3 --model ./SmolLM2 --prompts 1 --repeats 1

All other options go to `python -m tests.bench` of both. The earlier commit gets a worktree of its own and
the same environment. Printed are, for each part, the medians of the rounds and their ratio new ÷ old, and CPU
seconds of the whole process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PARTS = ("rollout", "batch_generate", "update", "forward_backward", "step")


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """The files of a commit, in a folder that is removed again."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "before"
        subprocess.run(
            ["git", "worktree", "add", "--detach", str(folder), commit],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        try:
            yield folder
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=ROOT, check=True)


def benchmark(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Seconds of every part in one run of the benchmark of a checkout, its peaks, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command, environment = [sys.executable, "-m", "tests.bench"], {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**of_parts(json.loads(done.stdout)), "CPU seconds": cpu}


def of_parts(result: dict[str, Any]) -> dict[str, float]:
    """Seconds and peak memory of the parts that were measured."""
    found = {f"{part}, seconds": result[part]["seconds"] for part in PARTS if part in result}
    found |= {f"{part}, peak GB": result[part]["peak_memory_gb"] for part in PARTS if part in result}
    for case in result.get("updates", []):
        for part in ("update", "gradient"):
            found[f"{part} after {case['prompt_tokens']} tokens, seconds"] = case[part]["seconds"]
    return found


def lines(new: list[dict[str, float]], old: list[dict[str, float]]) -> list[str]:
    """One line for every number: medians of the rounds, and their ratio."""
    found = [f"{'':40} {'new':>9} {'old':>9} {'ratio':>7}"]
    for name in new[0]:
        if name in old[0]:
            a, b = (statistics.median(round[name] for round in rounds) for rounds in (new, old))
            found.append(f"{name:40} {a:9.3f} {b:9.3f} {a / b:7.2f}")
    return found


def main() -> None:
    """Run both benchmarks in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=3)
    chosen, others = parser.parse_known_args()
    arguments = [str(Path(one).resolve()) if Path(one).exists() else one for one in others]
    new: list[dict[str, float]] = []
    old: list[dict[str, float]] = []
    with worktree(chosen.commit) as before:
        for _ in range(chosen.rounds):
            old.append(benchmark(before, arguments))
            new.append(benchmark(ROOT, arguments))
    print("\n".join(lines(new, old)))


if __name__ == "__main__":
    main()
