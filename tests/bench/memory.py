"""The estimate of memory beside what is measured, for several batches of a model.

    uv run python -m tests.bench.memory --model DIR
    uv run python -m tests.bench.memory --kind qwen3_5       # a wide random model of a kind with states

Each line is a rollout and an update of completions of full length, in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from grpo_cli.engine.update_policy import make_batches, update_policy
from tests.support.steps import scored_groups

CASES = [
    {"batch_size": 1, "num_generations": 4, "max_new_tokens": 16},
    {"batch_size": 1, "num_generations": 8, "max_new_tokens": 64},
    {"batch_size": 2, "num_generations": 8, "max_new_tokens": 32},
    {"batch_size": 1, "num_generations": 4, "max_new_tokens": 128},
    {"batch_size": 1, "num_generations": 8, "max_new_tokens": 32, "lora_rank": 8},
    {"batch_size": 1, "num_generations": 8, "max_new_tokens": 64, "grad_checkpoint": True},
    {"batch_size": 1, "num_generations": 8, "max_new_tokens": 32, "kl_coeff": 0.1},
]


def measure(model: str, changes: dict[str, float | str]) -> dict[str, float]:
    """Estimate and measured peaks in bytes: of the rollouts, and of the update with the optimizer's step."""
    import mlx.core as mx

    from grpo_cli import device

    device.prepare()
    from grpo_cli.config.schema import Config
    from grpo_cli.engine import setup
    from grpo_cli.engine.memory.check import needs_of

    config = Config(
        model_name=model, dataset="arithmetic", system_prompt="Think. " * 10, completion_prefix="",
        gradient_accumulation_steps=1, eval_steps=0, reward_functions=["last_number"], temperature=1.5,
        max_train_samples=64, **changes,
    )  # fmt: skip
    run = setup.prepare(config)
    run.policy.tokenizer = Endless(run.policy.tokenizer)  # type: ignore[assignment]
    needs = needs_of(run)
    assert needs is not None
    mx.random.seed(0)
    peaks = {}
    for step in (1, 2):  # the second one has the optimizer's state from the beginning
        mx.clear_cache()
        mx.reset_peak_memory()
        groups = scored_groups(run, step * run.config.prompts_per_step)
        peaks["rollouts"] = mx.get_peak_memory()
        for group in groups:
            for index, rollout in enumerate(group.rollouts):
                rollout.advantage = 1.0 if index % 2 else -1.0
        mx.clear_cache()
        mx.reset_peak_memory()
        update_policy(run, step, make_batches(run, groups))
        peaks["update"] = mx.get_peak_memory()
    return {
        **peaks,
        "rollouts_estimated": needs.rollout_peak,
        "update_estimated": needs.update_peak,
    }


class Endless:
    """A tokenizer without end tokens, so that every completion has its full length."""

    eos_ids: frozenset[int] = frozenset()

    def __init__(self, wrapped: object) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> object:
        return getattr(self.wrapped, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--case", type=json.loads)
    parser.add_argument("--kind", help="of tests/support/wide_kinds.py")
    chosen = parser.parse_args()
    if chosen.kind:
        from tests.support.wide_kinds import write_wide

        with tempfile.TemporaryDirectory() as folder:
            show(str(write_wide(chosen.kind, Path(folder) / "model")))
        return
    if chosen.case is not None:
        print(json.dumps(measure(chosen.model, chosen.case)))
        return
    show(chosen.model)


def show(model: str) -> None:
    """Print a line for each case."""
    print(f"{'rollouts':>25} {'update':>25}   (GB measured, estimated, ratio)")
    for case in CASES:
        command = [
            sys.executable,
            "-m",
            "tests.bench.memory",
            "--model",
            model,
            "--case",
            json.dumps(case),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        cells = [
            f"{found[part] / 1e9:7.2f} {found[f'{part}_estimated'] / 1e9:7.2f} "
            f"{found[f'{part}_estimated'] / found[part]:7.2f}"
            for part in ("rollouts", "update")
        ]
        print("   ".join(cells), "  ", ", ".join(f"{key}={value}" for key, value in case.items()))


if __name__ == "__main__":
    main()
