"""Thousands of mutated files of every kind that the program reads: none may crash it, hang it or lie.

    uv run python -m tests.bench.hostile_files --count 20000 --seed 0
    uv run python -m tests.bench.hostile_files --only config.json --count 1000

Worker processes read one file after the other; one that takes longer than SECONDS counts as a hang, and its
worker is replaced. Printed at the end, by kind: read, refused, tracebacks, hangs, wrong tensors, code run,
and messages or output with raw control characters, as a table in Markdown.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import unicodedata
from collections import Counter, defaultdict
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.hostile import KINDS, Bench

SECONDS = 20.0  # for one file, on a machine that is not busy
STARTING = 300.0  # seconds for a worker to import MLX and write the sound files
COLUMNS = ("read", "refused", "traceback", "hang", "wrong", "ran", "control")


def steers(text: str) -> bool:
    """Whether a text holds a character that steers a terminal."""
    return any(unicodedata.category(char) == "Cc" and char not in "\n\t\r" for char in text)


def work(pipe: Connection, name: str, folder: str) -> None:
    """Answer seeds with outcomes until told None. What libraries print goes to a file, which is looked at."""
    from grpo_cli.foreign_text import visible

    output = Path(folder) / "output"
    descriptor = os.open(output, os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    bench = Bench(KINDS[name], Path(folder) / "files")
    pipe.send(("ready", ""))
    while (seed := pipe.recv()) is not None:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        kind, words = bench.outcome(seed)
        sys.stdout.flush()
        sys.stderr.flush()
        printed = output.read_text(encoding="utf-8", errors="replace")
        is_raw = steers(printed) or (kind == "refused" and steers(visible(words)))
        pipe.send(("control" if is_raw else kind, words))


class Worker:
    """A process that reads mutated files of one kind."""

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, name, self.folder.name), daemon=True)
        self.process.start()
        other.close()
        if not self.pipe.poll(STARTING):
            raise RuntimeError(f"no worker for {name}")
        self.pipe.recv()

    def outcome(self, seed: int) -> tuple[str, str]:
        """What came of a seed; a hang or a death of the process is one too."""
        self.pipe.send(seed)
        if not self.pipe.poll(SECONDS):
            return "hang", f"more than {SECONDS:.0f} s"
        try:
            found: tuple[str, str] = self.pipe.recv()
        except EOFError:
            self.process.join()
            return "traceback", f"the process died with {self.process.exitcode}"
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.folder.cleanup()


def tried(name: str, seeds: range) -> tuple[Counter[str], dict[str, list[int]]]:
    """Outcomes of a kind's seeds, and the seeds of each that must not be."""
    counts: Counter[str] = Counter()
    bad: dict[str, list[int]] = defaultdict(list)
    worker = Worker(name)
    for seed in seeds:
        kind, words = worker.outcome(seed)
        counts[kind] += 1
        if kind not in ("read", "refused"):
            bad[f"{kind}: {words[:200]}"].append(seed)
        if kind == "hang" or not worker.process.is_alive():
            worker.close()
            worker = Worker(name)
    worker.close()
    return counts, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="files of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(KINDS), help="kinds; all without it")
    chosen = parser.parse_args()
    names, started = chosen.only or list(KINDS), time.monotonic()
    each = -(-chosen.count // len(names))
    print(f"| kind | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    total: Counter[str] = Counter()
    faults: dict[str, list[int]] = {}
    for name in names:
        counts, bad = tried(name, range(chosen.seed, chosen.seed + each))
        total += counts
        faults |= {f"{name}: {words}": seeds for words, seeds in bad.items()}
        print(f"| {name} | {' | '.join(str(counts[column]) for column in COLUMNS)} |", flush=True)
    print(f"| all {sum(total.values()):,} | {' | '.join(str(total[column]) for column in COLUMNS)} |")
    print(f"\n{time.monotonic() - started:.0f} s")
    for words, seeds in faults.items():
        print(f"- {words!r}: seeds {seeds[:5]} ({len(seeds)})")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
