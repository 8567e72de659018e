"""`python -m tests.bench.growth`: how time and memory of a step grow with its sizes, one varied at a time.

    python -m tests.bench.growth                             # a random llama of 8 M weights
    python -m tests.bench.growth --model ./SmolLM2 --only G,prompt
    python -m tests.bench.growth --only steps --steps 200

Every point is a process of its own: random prompts, completions without end tokens, a warm-up step, then the
median of --repeats. A size that is not varied is that of BASE; the vocabulary is always varied on the random
llama. `steps` is a run of the embedded model, with medians of the tenth of the steps that ends at step n; the
first step warms up and is in none of the ratios.

Work is the multiplications of a forward: prompts read once, completions, the head at the completions
(growth_table.py). `÷ work` is the time for a unit of it relative to the first point: 1.00 is as linear as the
work. An exponent is the slope of log seconds over log size, or over log work: 1.0 is linear, 0.0 is constant.
JSON goes to stdout (or to the file named by --json), a table for each axis to stderr.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tests.bench import growth_table

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Point:
    """The sizes of a step: P prompts of so many tokens, G completions of each."""

    generations: int = 8
    prompt: int = 200
    completion: int = 64
    vocabulary: int = 8192  # of the random llama
    prompts: int = 1


BASE = Point()
AXES = {  # name in the table → field of Point, its values
    "G": ("generations", (8, 16, 32, 64)),
    "prompt": ("prompt", (50, 200, 500, 1000, 2000)),
    "completion": ("completion", (64, 128, 256, 512, 1024)),
    "vocabulary": ("vocabulary", (32_768, 65_536, 131_072, 262_144)),
    "prompts": ("prompts", (1, 2, 4, 8, 16)),
}
STEPS = "steps"
LLAMA = {
    "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 8, "intermediate_size": 768,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "eos_token_id": 311,
    "max_position_embeddings": 4096, "tie_word_embeddings": True, "torch_dtype": "float32",
}  # fmt: skip


# --- one point, in a process of its own ------------------------------------------------------------------


def measure_point(point: Point, model: str, repeats: int) -> dict[str, Any]:
    """Seconds and peaks (10⁹ bytes) of the rollouts and of the update, and their work."""
    from grpo_cli import device

    device.prepare()
    with tempfile.TemporaryDirectory() as folder:
        path = model or str(random_llama(Path(folder) / "model", point.vocabulary))
        run, sample, update = parts(point, path)
        found = [timed(sample, update) for _ in range(repeats + 1)][1:]  # the first one warms up
        work = growth_table.work(asdict(point), run.policy.config)
    medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
    return {**medians, "work": work}


def random_llama(folder: Path, vocabulary: int) -> Path:
    """Write it into a new folder."""
    import mlx.core as mx
    from mlx_lm.models import llama

    from tests.support.llama import write_model

    mx.random.seed(0)
    config = {**LLAMA, "vocab_size": vocabulary}
    return write_model(folder, llama.Model(llama.ModelArgs.from_dict(config)), config)


def parts(point: Point, model: str) -> tuple[Any, Callable[[], Any], Callable[[Any], None]]:
    """A run of this size, what samples its groups, and what trains on them."""
    import random

    from grpo_cli import device
    from grpo_cli.config.schema import Config
    from grpo_cli.engine.memory.check import limit_cache
    from grpo_cli.engine.rollout.generate import generate
    from grpo_cli.engine.rollout.sampling import Sampling
    from grpo_cli.engine.setup import prepare
    from grpo_cli.engine.update_policy import make_batches, update_policy
    from grpo_cli.types import Example, RolloutGroup
    from tests.bench.measure import Endless, balanced

    config = Config(
        model_name=model, dataset="arithmetic", system_prompt="", completion_prefix="", temperature=1.0,
        reward_functions=["last_number"], num_generations=point.generations, batch_size=1, eval_steps=0,
        max_new_tokens=point.completion, gradient_accumulation_steps=point.prompts, max_train_samples=64,
    )  # fmt: skip
    run = prepare(config)
    limit_cache(run, device.memory_budget(device.prepare()))
    run.policy.tokenizer = Endless(run.policy.tokenizer)
    dice, words = random.Random(0), run.policy.config["vocab_size"]
    prompts = [[dice.randrange(words) for _ in range(point.prompt)] for _ in range(point.prompts)]

    def sample() -> list[RolloutGroup]:
        completions = generate(run.policy, prompts, point.generations, Sampling.for_training(config))
        pairs = zip(prompts, completions, strict=True)
        return [RolloutGroup(Example(messages=[], answer=""), ids, rollouts) for ids, rollouts in pairs]

    def update(groups: list[RolloutGroup]) -> None:
        update_policy(run, 1, make_batches(run, balanced(groups)))

    return run, sample, update


def timed(sample: Callable[[], Any], update: Callable[[Any], None]) -> dict[str, float]:
    """Seconds, CPU seconds and peaks of one step."""
    from grpo_cli import device

    groups: Any = None
    found: dict[str, float] = {}
    for name in growth_table.PARTS:
        device.reset_peak_memory()
        started, cpu_started = time.perf_counter(), time.process_time()
        if name == "rollout":
            groups = sample()
        else:
            update(groups)
        found[f"{name}_seconds"] = time.perf_counter() - started
        found[f"{name}_cpu_seconds"] = time.process_time() - cpu_started
        found[f"{name}_peak_gb"] = device.peak_memory_gb()
    return found


def measure_steps(steps: int) -> list[dict[str, Any]]:
    """A run of the embedded model at 1, 1 %, 10 % and all of its steps."""
    from grpo_cli import device

    device.prepare()
    from grpo_cli.config.schema import Config
    from grpo_cli.engine import events
    from grpo_cli.engine.train import train
    from tests.bench.harm import resident
    from tests.support import letter_reward

    memory: list[int] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.StepFinished):
            memory.append(resident())

    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            model_name="tiny", dataset="arithmetic", system_prompt="", completion_prefix="", temperature=1.5,
            reward_functions=[f"{letter_reward.__file__}:mean_letter"], num_epochs=100_000, max_steps=steps,
            batch_size=2, num_generations=4, max_new_tokens=12, eval_steps=0, save_steps=0,
            learning_rate=1e-5, output_dir=folder, run_name="growth",
        )  # fmt: skip
        log = train(config, watch).parent / "training_log.jsonl"
        lines = [line for line in map(json.loads, log.read_text().splitlines()) if "step_seconds" in line]
    return [at_step(step, lines, memory) for step in sorted({1, steps // 100, steps // 10, steps} - {0})]


def at_step(step: int, lines: list[dict[str, Any]], memory: list[int]) -> dict[str, Any]:
    """Medians of the tenth of the first `step` steps that ends there."""
    first = step - max(1, step // 10)
    keys = ("rollout_seconds", "update_seconds", "peak_memory_gb")
    medians = {key: statistics.median(line[key] for line in lines[first:step]) for key in keys}
    return {**medians, "resident_gb": statistics.median(memory[first:step]) / 1000, "size": step, "work": 1}


# --- all of them -----------------------------------------------------------------------------------------


def main(
    model: Annotated[str, typer.Option(help="A model folder, or `tiny`. Default: a random llama.")] = "",
    only: Annotated[str, typer.Option(help=f"Some of {','.join([*AXES, STEPS])}.")] = "",
    most: Annotated[int, typer.Option(min=0, help="Leave out larger sizes; 0: none.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the axis `steps`.")] = 2000,
    repeats: Annotated[
        int, typer.Option(min=1, help="Timed steps of a point, of which the median counts.")
    ] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the JSON here.")] = None,
    job: Annotated[str, typer.Option("--point", hidden=True, help="One point, in this process.")] = "",
) -> None:
    """Measure every point of the axes."""
    if job:
        measured = (
            measure_steps(steps) if job == STEPS else measure_point(Point(**json.loads(job)), model, repeats)
        )
        sys.stdout.write(json.dumps(measured) + "\n")
        return
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
    names = [name.strip() for name in only.split(",")] if only else [*AXES, STEPS]
    if unknown := set(names) - {*AXES, STEPS}:
        raise typer.BadParameter(f"no such axis: {', '.join(sorted(unknown))}", param_hint="--only")
    found: dict[str, Any] = {"model": model or "random llama", "base": asdict(BASE), "axes": {}}
    for name in names:
        points = (
            child(STEPS, "tiny", ["--steps", str(steps)])
            if name == STEPS
            else axis(name, model, most, repeats)
        )
        if not points:  # all of them are larger than --most
            continue
        found["axes"][name] = {"points": points, "exponents": growth_table.exponents(name, points)}
        console.print(growth_table.table(name, found["axes"][name]))
    text = json.dumps(found, indent=2) + "\n"
    if json_file:
        json_file.write_text(text)
    else:
        sys.stdout.write(text)


def axis(name: str, model: str, most: int, repeats: int) -> list[dict[str, Any]]:
    """The points of an axis, from the smallest size to the largest."""
    field, sizes = AXES[name]
    points = []
    for size in sizes:
        if most and size > most:
            continue
        point = replace(BASE, **{field: size})
        chosen = "" if name == "vocabulary" else model
        result = child(json.dumps(asdict(point)), chosen, ["--repeats", str(repeats)])
        points.append({"size": size, **result})
    return points


def child(job: str, model: str, words: list[str]) -> Any:
    """The measurements of a process of its own. CalledProcessError, after its words, if it failed."""
    command = [sys.executable, "-m", "tests.bench.growth", "--point", job, "--model", model, *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    typer.run(main)
