"""Every class of failures of the device at every place of a step: what the run does, and what it costs.

    uv run python -m tests.bench.device_failures            # a table in Markdown; minutes

Each is a run of three steps of the embedded model in which one call fails with MLX's exact text. Its weights
and the gradient of every step are compared with those of a calm run.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import update_policy
from grpo_cli.engine.failures import failure_in
from grpo_cli.engine.recovery import DeviceLost, Restart
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.incidents import RESUMED, read_incidents
from grpo_cli.engine.train import train
from grpo_cli.models.tree import flat
from tests.support.device_faults import PLACES, TEXTS, Faults
from tests.support.small_runs import SHORT, small

# The call that fails at each place, in the second of three steps or in the evaluation before the first.
FAILING_CALL = {
    "prefill": 2, "decode": 16, "forward": 2, "backward": 2, "optimizer": 2, "evaluation": 2, "saving": 2
}  # fmt: skip
SIGNS = {  # the words of recovery.py, shortened
    "completion": "rows", "prompt tokens": "prefill", "computed again": "again", "switched off": "plain",
    "ended with": "saved", "a new process": "saved,",
}  # fmt: skip
Gradients = dict[int, dict[str, mx.array]]


@dataclass
class Trial:
    """A run's final weights, the gradient of each step, its answers and the number of new processes."""

    weights: dict[str, mx.array]
    gradients: Gradients
    answers: list[str]
    processes: int = 0
    is_lost: bool = False

    def gap(self, calm: "Trial") -> float:
        """Largest difference of a weight."""
        return max(float(mx.abs(self.weights[name] - array).max()) for name, array in calm.weights.items())

    def gradient_gap(self, calm: "Trial") -> float:
        """Largest difference of a step's gradient, relative to its norm."""
        return max(distance(self.gradients[step], found) for step, found in calm.gradients.items())


def distance(found: dict[str, mx.array], expected: dict[str, mx.array]) -> float:
    """Norm of the difference of two gradients, relative to the norm of the second."""
    squares = [mx.stack([mx.square(found[name] - array).sum(), mx.square(array).sum()])
               for name, array in expected.items()]  # fmt: skip
    off, norm = mx.sqrt(mx.stack(squares).sum(axis=0)).tolist()  # type: ignore[misc]
    return float(off) / float(norm)


def settings(folder: Path, name: str) -> Config:
    """Three steps, each saved and evaluated."""
    keys: dict[str, Any] = {**SHORT, "max_steps": 3, "save_steps": 1, "keep_checkpoints": 9}
    return small(folder, run_name=name, **keys | {"eval_steps": 1, "eval_samples": 4, "lora_rank": 0})


def watched(harm: pytest.MonkeyPatch) -> Gradients:
    """The gradient of each step, as the optimizer receives it; a step that is made again counts last."""
    found: Gradients = {}
    real = update_policy.compute_gradient

    def compute(run: Any, batches: Any) -> Any:
        gradients, result = real(run, batches)
        found[run.state.step + 1] = {name: array + 0 for name, array in flat(gradients).items()}
        mx.eval(found[run.state.step + 1])
        return gradients, result

    harm.setattr(update_policy, "compute_gradient", compute)
    return found


def trial(config: Config, faults: Faults | None = None) -> Trial:
    """Train with the faults, and resume as often as a new process is asked for."""
    processes, is_lost, is_done = 0, False, False
    with pytest.MonkeyPatch.context() as harm:
        gradients = watched(harm)
        if faults:
            faults.set_up(harm)
        while not is_done:
            try:
                resume(config.run_dir) if processes or is_lost else train(config)
                is_done = True
            except Restart:
                processes += 1
            except DeviceLost:
                is_lost = True
    seen = [one.done for one in read_incidents(config.run_dir) if one.kind != RESUMED]
    weights: Any = mx.load(str(config.run_dir / "final" / "model.safetensors"))
    return Trial(dict(weights), gradients, seen, processes, is_lost)


def cell(found: Trial, calm: Trial, raised: int) -> str:
    """One cell of the table: the answers and the differences."""
    assert raised == 1, "the fault was not met"
    words = [sign for answer in found.answers for text, sign in SIGNS.items() if text in answer]
    gap, off = found.gap(calm), found.gradient_gap(calm)
    equal = "=" if gap == off == 0.0 else f"{off:.0e}, {gap:.0e}"
    return f"{' '.join(dict.fromkeys(words))}{' new process' * found.processes}: {equal}"


def main() -> None:
    """Print the table, one line a class."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=TEXTS, nargs="*", default=list(TEXTS))
    chosen = parser.parse_args()
    print("| failure |", " | ".join(PLACES), "|\n|", "---|" * (len(PLACES) + 1), sep="")
    with tempfile.TemporaryDirectory() as name:
        calm = trial(settings(Path(name), "calm"))
        for text in chosen.only:
            failure = failure_in(TEXTS[text])
            assert failure is not None
            cells = []
            for place in PLACES:
                faults = Faults(place, TEXTS[text], (FAILING_CALL[place],))
                found = trial(settings(Path(name), f"{text}-{place}".replace(" ", "-")), faults)
                cells.append(cell(found, calm, faults.raised))
            print(f"| {failure.name}: {text} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
