"""SFT with `mlx_lm.lora`, then GRPO from its adapters, beside GRPO alone.

    uv run python -m tests.bench.warm_start --model DIR

The task: one-digit sums with `<answer>7</answer>` at the end, of which no prompt says anything. The model as
it is never writes that, so that every group of GRPO alone has the reward 0 and nothing is learned. A short
SFT on sums of the training split teaches the form; GRPO continues its adapters with the same seed and steps.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--folder", type=Path, default=Path("warm_start"))
    parser.add_argument("--iterations", type=int, default=20, help="of SFT")
    parser.add_argument("--layers", type=int, default=8, help="last layers with adapters")
    parser.add_argument("--only", help="one of the two runs: `warm` or `alone`")
    parser.add_argument("--steps", type=int, default=16, help="of GRPO")
    parser.add_argument("--samples", type=int, default=30, help="held-out sums of an evaluation")
    chosen = parser.parse_args()
    from grpo_cli import device

    device.prepare()
    from grpo_cli.models.find import find_model

    model, folder = str(find_model(chosen.model)), chosen.folder
    if chosen.only != "alone":
        started = time.perf_counter()
        fine_tune(model, folder, chosen.iterations, chosen.layers)
        print(f"SFT: {chosen.iterations} iterations, {time.perf_counter() - started:.0f} s", flush=True)
    settings = {"max_steps": chosen.steps, "eval_steps": chosen.steps, "eval_samples": chosen.samples}
    runs: dict[str, dict[str, Any]] = {
        "warm": {"adapter": str(folder / "adapters")},
        "alone": {"lora_rank": 8, "lora_layers": chosen.layers},
    }
    for name, keys in runs.items():
        if chosen.only not in (None, name):
            continue
        started = time.perf_counter()
        before, after = trained(name, model, folder, settings | keys)
        seconds = time.perf_counter() - started
        print(f"{name}: {before:.0%} → {after:.0%}, {chosen.steps} steps, {seconds:.0f} s", flush=True)


def fine_tune(model: str, folder: Path, iterations: int, layers: int) -> None:
    """`mlx_lm.lora` in this process, where the fast matrix product of the CPU is loaded."""
    from mlx_lm.lora import main as lora

    write_examples(folder / "data")
    sys.argv = [
        *("mlx_lm.lora", "--model", model, "--train", "--data", str(folder / "data"), "--mask-prompt"),
        *(
            "--iters",
            str(iterations),
            "--batch-size",
            "4",
            "--num-layers",
            str(layers),
            "--learning-rate",
            "1e-4",
        ),
        *("--steps-per-eval", "100000", "--val-batches", "1", "--adapter-path", str(folder / "adapters")),
    ]
    lora()


def write_examples(folder: Path) -> None:
    """Sums of the training split with answers in the wanted form, as `mlx_lm.lora` reads chats."""
    from grpo_cli.data.load import load_examples

    lines = []
    for example in load_examples(task(), "train"):
        sum_asked = example.messages[-1]["content"].removeprefix("What is ").removesuffix("?")
        text = f"{sum_asked} = {example.answer}\n<answer>{example.answer}</answer>"
        lines.append(json.dumps({"messages": [*example.messages, {"role": "assistant", "content": text}]}))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "valid"):
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def task(**changes: Any) -> Any:
    """The configuration of the task."""
    from grpo_cli.config.schema import Config

    settings = {
        "dataset": "arithmetic", "dataset_config": "1", "system_prompt": "", "completion_prefix": "",
        "reward_functions": ["correctness"], "eval_reward": "correctness", "stop": ["</answer>"],
        "num_generations": 8, "max_new_tokens": 24, "eval_max_new_tokens": 24, "temperature": 1.0,
        "learning_rate": 1e-4, "lr_scheduler_type": "constant", "max_grad_norm": 1.0, "batch_size": 2,
        "gradient_accumulation_steps": 1, "num_epochs": 50, "save_steps": 0, "warmup_ratio": 0.0,
    }  # fmt: skip
    return Config(**settings | changes)


def trained(name: str, model: str, folder: Path, keys: dict[str, Any]) -> tuple[float, float]:
    """Accuracy on held-out sums before and after a run."""
    from grpo_cli.engine.train import train

    final = train(task(model_name=model, output_dir=str(folder), run_name=name, **keys))
    log = [json.loads(line) for line in (final.parent / "training_log.jsonl").read_text().splitlines()]
    scores = [line["eval_accuracy"] for line in log if "eval_accuracy" in line]
    return scores[0], scores[-1]


if __name__ == "__main__":
    main()
