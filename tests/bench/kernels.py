"""Twenty steps with every choice of a kernel turned the other way: the same to rounding, and resumed exactly.

    uv run python -m tests.bench.kernels

Each choice trains the embedded model, resumes from step 10, and compares the final weights: byte for byte
with the uninterrupted run, and to rounding with a run in which nothing was changed. `of the movement` is
relative to the distance that training moved the weights. A choice of the BLAS needs its own process. The
embedded model has no gated layers: their storing is compared in tests/cpu/test_swiglu.py.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from grpo_cli.device import prepare

prepare()

from grpo_cli.engine.update.gradient import global_norm  # noqa: E402  (after the device)
from grpo_cli.models.find import TINY  # noqa: E402
from tests.support.kernel_choices import (  # noqa: E402
    CHOICES,
    CONFIGURED,
    arrays,
    largest_difference,
    resumes_exactly,
    trained,
)

STEPS = 20
BY_VARIABLE = {
    "MLX's BLAS": {"GRPO_FAST_BLAS": "0"},
    "BLAS on one thread": {"OPENBLAS_NUM_THREADS": "1"},
    "BLAS on two threads": {"OPENBLAS_NUM_THREADS": "2"},
}


def main() -> None:
    if len(sys.argv) == 2:  # in a process of its own
        print(resumes_exactly(trained(Path(sys.argv[1]), STEPS)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| choice | resumed | largest relative difference | of the movement |\n|---|---|---|---|")
        show(folder, "nothing", resumes_exactly(trained(folder / "nothing", STEPS)))
        for choice, turn in CHOICES.items():
            with pytest.MonkeyPatch.context() as patch:
                turn(patch)
                show(folder, choice, resumes_exactly(trained(folder / choice, STEPS)))
        for choice, keys in CONFIGURED.items():
            show(folder, choice, resumes_exactly(trained(folder / choice, STEPS, **keys)))
        for choice, variables in BY_VARIABLE.items():
            show(folder, choice, by_process(folder / choice, variables))


def by_process(folder: Path, variables: dict[str, str]) -> bool:
    """The same in a process with these environment variables."""
    command = [sys.executable, "-m", "tests.bench.kernels", str(folder)]
    ended = subprocess.run(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True)
    return ended.stdout.split()[-1] == "True"


def show(folder: Path, choice: str, is_equal: bool) -> None:
    """Print a line of the table."""
    found, expected = arrays(folder / choice), arrays(folder / "nothing")
    start = arrays(TINY.parent, TINY.name)
    movement = global_norm({name: b - start[name] for name, b in expected.items()})
    apart = global_norm({name: found[name] - b for name, b in expected.items()}) / movement
    resumed = "byte for byte" if is_equal else "OTHERWISE"
    print(f"| {choice} | {resumed} | {largest_difference(found, expected):.1e} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
