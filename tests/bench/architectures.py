"""Every type of model that mlx-lm has: the right way of sampling and training for it, and the differences.

    python -m tests.bench.architectures            # all, as the table of RESULTS.md
    python -m tests.bench.architectures gemma2 afm7
    python -m tests.bench.architectures --windows  # the plans of windows that are longer than the prompts

Each is made tiny with random weights (tests/support/model_kinds) and goes through what a run does with it
(tests/support/kind_trials.py). A kind is `ok` if all agrees with plain forwards of single sequences,
`refused` if a run refuses it before it trains, `not here` if this machine has no Metal or lacks a package.
"""

import sys
from collections import Counter
from typing import Any

from grpo_cli import device
from tests.support.kind_trials import BREAKDOWNS, MEASURES, Trial, compare, make, planned, tried
from tests.support.model_kinds import KINDS, WINDOW, untried

HEAD = ("kind", "verdict", "sampling / training", *MEASURES, "LoRA layers", "seconds")


def row(trial: Trial) -> str:
    """A line of the table."""
    if trial.plan is None:
        return line(
            trial.name, trial.verdict, trial.reason, *[""] * (len(MEASURES) + 1), f"{trial.seconds:.1f}"
        )
    numbers = [f"{trial.differences[name]:.1e}" if name in trial.differences else "" for name in MEASURES]
    way = f"{trial.way} ({trial.reason})" if trial.reason else trial.way
    return line(trial.name, trial.verdict, way, *numbers, str(trial.targets), f"{trial.seconds:.1f}")


def line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def widened(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with windows that no prompt of a trial reaches."""
    return {
        key: widened(value) if isinstance(value, dict) else 1024 if is_window(key, value) else value
        for key, value in fields.items()
    }


def is_window(key: str, value: Any) -> bool:
    return value == WINDOW and ("window" in key or key == "attention_chunk_size")


def windows() -> None:
    """For each kind with windows: is the plan of a long window that of a short one, and right beyond it?"""
    for name in (name for name, fields in KINDS.items() if widened(fields) != fields):
        try:
            plan = planned(make(name, **widened(KINDS[name])))
            same = "the same plan" if plan == planned(make(name)) else "another plan"
            logprobs, gradient = compare(make(name), plan)
            print(f"{name}: {same}; logprobs {logprobs:.1e}, gradient {gradient:.1e}", flush=True)
        except BREAKDOWNS as error:
            print(f"{name}: {str(error).splitlines()[0][:100]}", flush=True)


def main() -> None:
    """Print the table, and below it how many kinds have each verdict."""
    device.prepare()
    if sys.argv[1:] == ["--windows"]:
        windows()
        return
    print(line(*HEAD))
    print(line(*["---"] * len(HEAD)))
    verdicts: Counter[str] = Counter()
    for name in sys.argv[1:] or KINDS:
        trial = tried(name)
        verdicts[trial.verdict] += 1
        print(row(trial), flush=True)
    print("\n" + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))
    if untried():
        print(f"not tried: {', '.join(untried())}")


if __name__ == "__main__":
    main()
