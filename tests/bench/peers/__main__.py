"""`python -m tests.bench.peers`: this package beside other ways to train by GRPO on MLX, in one command.

    python -m tests.bench.peers                        # the embedded model learns sums
    python -m tests.bench.peers --model ./SmolLM2 --dataset openai/gsm8k --prompts 1 --steps 4 --samples 0

The first call makes an environment for the peers in --folder and installs mlx-lm-lora there, with this
environment's versions of MLX and mlx-lm. Each peer is a process of its own, one after the other, in --rounds
turns: the same prompts in the same order, the same reward, G, length, temperature and learning rate, AdamW on
all weights in float32, no KL term.

    grpo                     `grpo train`, without evaluations and checkpoints but the last
    mlx-lm-lora              its GRPO trainer, which generates as many completions at once as prompts
    mlx-lm-lora, all rows    the same with all completions of a step generated at once
    one by one               MLX-GRPO's method: sequential rollouts, text tokenised again (by_hand.py)
    mlx_lm                   `batch_generate`, one padded forward and backward, AdamW (by_hand.py)

On a CPU all peers get our fast matrix product, cache limit and compilation setting, in their own processes;
with --as-installed they keep what MLX's wheel has. The table names the BLAS of each.

JSON goes to stdout (or to the file named by --json), a table to stderr. It asserts nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from grpo_cli.errors import GrpoError
from grpo_cli.models.find import find_model
from tests.bench.peers import report
from tests.bench.peers.environment import python_of
from tests.bench.peers.job import LETTERS, ROOT, Job
from tests.bench.peers.run import PEERS


def main(
    model: Annotated[str, typer.Option(help="A model folder, a hub repository, or `tiny`.")] = "tiny",
    dataset: Annotated[str, typer.Option(help="Where the prompts come from.")] = "arithmetic",
    dataset_config: Annotated[str, typer.Option(help="The dataset's configuration.")] = "",
    reward: Annotated[
        str, typer.Option(help="Default: `correctness` for tiny, else one that tells any two texts apart.")
    ] = "",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of a step (P).")] = 16,
    generations: Annotated[int, typer.Option(min=2, help="Completions per prompt (G).")] = 8,
    new_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of a completion.")] = 48,
    steps: Annotated[int, typer.Option(min=2, help="Optimizer steps; the first one warms up.")] = 20,
    learning_rate: Annotated[
        float, typer.Option(help="Default: 5e-5 for tiny, else 1e-5.", show_default=False)
    ] = 0.0,
    samples: Annotated[int, typer.Option(min=0, help="Held-out problems; 0: no accuracy.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Turns, each with all peers from the start.")] = 1,
    only: Annotated[str, typer.Option(help=f"Some of: {'; '.join(PEERS)} (with `;` between).")] = "",
    as_installed: Annotated[bool, typer.Option(help="Peers keep MLX's own BLAS and settings.")] = False,
    folder: Annotated[Path, typer.Option(help="The peers' environment.")] = Path("outputs/peers"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the JSON here.")] = None,
) -> None:
    """Measure seconds a step, peak memory and learning of all peers."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
    is_tiny = model == "tiny"
    names = [name.strip() for name in only.split(";")] if only else list(PEERS)
    if unknown := set(names) - set(PEERS):
        raise typer.BadParameter(f"no such peer: {', '.join(sorted(unknown))}", param_hint="--only")
    try:
        job = Job(
            model=str(find_model(model).resolve()), dataset=dataset, dataset_config=dataset_config,
            reward=reward or ("correctness" if is_tiny else LETTERS), prompts=prompts,
            generations=generations, new_tokens=new_tokens, steps=steps, samples=samples,
            learning_rate=learning_rate or (5e-5 if is_tiny else 1e-5), alike=not as_installed,
        )  # fmt: skip
        python = python_of(folder.absolute())
        result = measured(job, names, rounds, python, console)
    except GrpoError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(error.exit_code) from error
    result["job"]["model"] = model
    console.print(report.table(result))
    text = json.dumps(result, indent=2) + "\n"
    if json_file:
        json_file.write_text(text)
    else:
        sys.stdout.write(text)


def measured(job: Job, names: list[str], rounds: int, python: Path, console: Console) -> dict[str, Any]:
    """All peers in turns. Raises GrpoError if the problems cannot be read; a peer that fails is a result."""
    settings = {key: value for key, value in asdict(job).items() if key not in ("training", "held_out")}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job.write(folder / "job.json")
        untrained = one("problems", Path(sys.executable), folder)
        if "failed" in untrained:
            raise GrpoError(f"The problems could not be read: {untrained['failed']}", untrained["log"])
        for turn in range(rounds):
            for peer in names:
                console.print(f"round {turn + 1} of {rounds}: {peer}", markup=False, highlight=False)
                found[peer].append(one(peer, Path(sys.executable) if peer == "grpo" else python, folder))
    return {
        "job": settings,
        "parameters": untrained["parameters"],
        "accuracy": untrained["accuracy"],
        "peers": {peer: of_rounds(results) for peer, results in found.items()},
    }


def of_rounds(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One peer's result: its first failure, or the summary of its rounds."""
    failures = [result for result in results if "failed" in result]
    return failures[0] if failures else report.summary(results)


def one(name: str, python: Path, folder: Path) -> dict[str, Any]:
    """The result of one process; {"failed": its last words, "log": the end of its output} if it has none."""
    file = folder / "result.json"
    file.unlink(missing_ok=True)
    command = [str(python), "-m", "tests.bench.peers.run", name, str(folder / "job.json"), str(file)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode == 0:
        return dict(json.loads(file.read_text()))
    lines = done.stdout.strip().splitlines() or [f"it ended with {done.returncode}"]
    return {"failed": lines[-1], "log": "\n".join(lines[-20:])}


if __name__ == "__main__":
    typer.run(main)
