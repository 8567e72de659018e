"""`python -m tests.bench.learning`: steps until the embedded task is learnt, for every loss type.

    python -m tests.bench.learning                              # all, with smoke_test's settings
    python -m tests.bench.learning --loss-type gspo --set clip_eps=3e-4 --json learning.json

Each run evaluates every other step on the held-out problems and ends at the accuracy asked for. JSON goes to
stdout (or to the file named by --json), a table to stderr. It asserts nothing.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from grpo_cli import device
from grpo_cli.config.load import load_config
from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.errors import GrpoError

EVAL_STEPS = 2
LOSS_TYPES = list(Config.model_json_schema()["properties"]["loss_type"]["enum"])


class Learnt(KeyboardInterrupt):
    """Ends a run that has reached the accuracy; any other exception of a listener only drops the listener."""


class Watch:
    """Listens to a run: its evaluations, and its end once the accuracy is reached."""

    def __init__(self, target: float) -> None:
        self.target = target
        self.accuracies: dict[int, float] = {}
        self.step_seconds: list[float] = []

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.StepFinished):
            self.step_seconds.append(event.metrics["step_seconds"])
        if isinstance(event, events.EvaluationDone):
            self.accuracies[event.step] = event.metrics["eval_accuracy"]
            if event.metrics["eval_accuracy"] >= self.target:
                raise Learnt


def learn(loss_type: str, overrides: list[str], target: float) -> dict[str, Any]:
    """Train until the accuracy is reached, or to the end of the configuration; what came out."""
    from grpo_cli.engine.train import train

    watch, started = Watch(target), time.perf_counter()
    reached = False
    with tempfile.TemporaryDirectory() as folder:
        keys = [f"loss_type={loss_type}", f"eval_steps={EVAL_STEPS}", f"output_dir={folder}", *overrides]
        config = load_config("smoke_test", keys).config
        try:
            train(config, watch)
        except Learnt:
            reached = True
    steps = max(watch.accuracies)
    return {
        "loss_type": loss_type,
        "settings": overrides,
        "steps": steps if reached else None,
        "accuracy_before": watch.accuracies[0],
        "accuracy": watch.accuracies[steps],
        "accuracies": watch.accuracies,
        "training_seconds": sum(watch.step_seconds),
        "seconds": time.perf_counter() - started,
    }


def table(results: list[dict[str, Any]], target: float) -> Table:
    """One row a loss type."""
    rendered = Table(title=f"steps until accuracy {target:.0%} on the embedded task")
    rendered.add_column("loss_type")
    for heading in ("steps", "before", "then", "training s"):
        rendered.add_column(heading, justify="right")
    for result in results:
        rendered.add_row(
            " ".join([result["loss_type"], *result["settings"]]),
            str(result["steps"] or "not reached"),
            f"{result['accuracy_before']:.1%}",
            f"{result['accuracy']:.1%}",
            f"{result['training_seconds']:.0f}",
        )
    return rendered


def main(
    loss_type: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for every run.")] = None,
    target: Annotated[float, typer.Option(min=0.0, max=1.0, help="The accuracy to reach.")] = 0.8,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the JSON here.")] = None,
) -> None:
    """Count the steps that every loss type needs to learn the embedded task."""
    console = Console(stderr=True)
    results = []
    try:
        device.prepare()
        for name in loss_type or LOSS_TYPES:
            results.append(learn(name, overrides or [], target))
            console.print(f"{name}: {results[-1]['steps']} steps, {results[-1]['accuracy']:.1%}")
    except GrpoError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(error.exit_code) from error
    console.print(table(results, target))
    text = json.dumps({"target": target, "eval_steps": EVAL_STEPS, "results": results}, indent=2)
    if json_file:
        json_file.write_text(text + "\n")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    typer.run(main)
