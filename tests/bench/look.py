"""`python -m tests.bench.look`: a step with everything that shows a run on, beside one with all of it off.

    python -m tests.bench.look --steps 200                                # the embedded model
    python -m tests.bench.look --model ./SmolLM2 --steps 24 --block 2

One run, in which blocks of steps take turns: in one block each step writes its rollouts, goes to a tracker
and, if that is due, to the page (`report_every = 1`); in the next one it does nothing of the kind. The first
block does not count. `cpu` is the processor time of all threads, which a busy machine disturbs less. `parts`
are the processor seconds a step of each part by itself, in the thread where it runs: exact on any machine.
A page is left out while pages would take more than 1 % of the time, so its cost stands apart. JSON goes to
stdout, a table to stderr. It asserts nothing.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import typer
from rich.console import Console
from rich.table import Table

from grpo_cli import device
from grpo_cli.errors import GrpoError

Sample = dict[str, float]


class Blocks:
    """Knows whether a step's block is on, and measures the steps of both kinds."""

    def __init__(self, size: int) -> None:
        self.size, self.step = size, 0
        self.samples: dict[bool, list[Sample]] = {True: [], False: []}
        self.pages: list[float] = []
        self.parts: dict[str, float] = {}
        self._mark = self._now()

    @property
    def is_on(self) -> bool:
        """True in every second block; `step` is the last finished one."""
        return self.step // self.size % 2 == 1

    def finished(self, step: int) -> None:
        """A step has ended, with all that was done for it."""
        now, before = self._now(), self._mark
        if (
            self.step >= self.size and self.step % self.size
        ):  # the first step of a block has the last one's rest
            self.samples[self.is_on].append({key: now[key] - before[key] for key in now})
        self._mark, self.step = now, step
        if step == 2 * self.size:  # the first block that was on imported libraries
            self.parts.clear()

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose processor time is added to a part."""

        def run(*words: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*words)
            finally:
                self.parts[name] = self.parts.get(name, 0.0) + time.thread_time() - begun

        return run

    @staticmethod
    def _now() -> Sample:
        return {"seconds": time.perf_counter(), "cpu": time.process_time()}


def run(keys: dict[str, Any], block: int) -> dict[str, Any]:
    """Train once; the medians of both kinds of steps, and the seconds of each page."""
    from grpo_cli.cli import run_page
    from grpo_cli.config.schema import Config
    from grpo_cli.engine import events
    from grpo_cli.engine.run_dir.rollout_log import RolloutLog
    from grpo_cli.engine.train import train
    from grpo_cli.trackers.report import Tracking
    from grpo_cli.trackers.worker import Worker

    blocks = Blocks(block)
    page = run_page.RunPage(lambda event: print(event, file=sys.stderr))
    put = blocks.counted("rollouts, in the run", RolloutLog.put)
    report = blocks.counted("tracker, in the run", Tracking.__call__)
    write, other = run_page.written_page, Tracking.__call__

    def listener(event: events.Event) -> None:
        if isinstance(event, events.StepFinished):
            if blocks.is_on:
                page(event)
            return blocks.finished(event.step)
        return page(event)

    def put_if_on(log: RolloutLog, *words: Any) -> None:
        if blocks.is_on:
            put(log, *words)

    def report_if_on(tracking: Tracking, event: events.Event) -> None:
        if blocks.is_on and isinstance(event, events.StepFinished):
            report(tracking, event)
        elif not isinstance(event, events.StepFinished):
            other(tracking, event)

    def timed(folder: Path, refresh: int) -> Path | None:
        begun = time.perf_counter()
        made = write(folder, refresh)
        blocks.pages.append(time.perf_counter() - begun)
        return made

    with ExitStack() as stack:
        stack.enter_context(patch.object(RolloutLog, "put", put_if_on))
        stack.enter_context(patch.object(Tracking, "__call__", report_if_on))
        stack.enter_context(patch.object(run_page, "written_page", timed))
        for name, place, function in (
            ("rollouts, their thread", RolloutLog, "_write"),
            ("tracker, its thread", Worker, "_send"),
        ):
            counted = blocks.counted(name, getattr(place, function))
            stack.enter_context(patch.object(place, function, lambda *words, run=counted: run(*words)))
        train(Config.model_validate(keys), listener)
    return result(keys, blocks)


def result(keys: dict[str, Any], blocks: Blocks) -> dict[str, Any]:
    """The medians and their ratios."""
    steps = sum(1 for step in range(2 * blocks.size, blocks.step) if step // blocks.size % 2)
    medians = {
        name: {
            key: statistics.median(one[key] for one in blocks.samples[is_on]) for key in ("seconds", "cpu")
        }
        for name, is_on in (("on", True), ("off", False))
    }
    return {
        "model": keys["model_name"], "trackers": keys["report_to"], "steps": len(blocks.samples[True]),
        **medians,
        "ratio": medians["on"]["seconds"] / medians["off"]["seconds"],
        "cpu_ratio": medians["on"]["cpu"] / medians["off"]["cpu"],
        "parts": {name: seconds / max(1, steps) for name, seconds in blocks.parts.items()},
        "pages": blocks.pages,
    }  # fmt: skip


def table(found: dict[str, Any]) -> Table:
    """A row for each kind of step."""
    rendered = Table(
        title=f"{found['model']}, {', '.join(found['trackers'])}: medians of {found['steps']} steps"
    )
    for heading in ("everything", "seconds", "cpu"):
        rendered.add_column(heading, justify="right")
    for name in ("off", "on"):
        rendered.add_row(name, f"{found[name]['seconds']:.4f}", f"{found[name]['cpu']:.4f}")
    rendered.add_row("ratio", f"{found['ratio']:.3f}", f"{found['cpu_ratio']:.3f}")
    for name, seconds in found["parts"].items():
        rendered.add_row(name, "", f"{seconds:.4f}")
    pages = ", ".join(f"{seconds:.2f}" for seconds in found["pages"])
    rendered.caption = f"pages: {pages} s each, and at most 1 % of the run's time"
    return rendered


def main(
    model: Annotated[str, typer.Option(help="A model folder, a hub repository, or `tiny`.")] = "tiny",
    tracker: Annotated[str, typer.Option(help="wandb, trackio, tensorboard or mlflow.")] = "tensorboard",
    steps: Annotated[int, typer.Option(min=4, help="Steps of the run.")] = 80,
    block: Annotated[int, typer.Option(min=2, help="Steps of a block.")] = 5,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of a step.")] = 16,
    generations: Annotated[int, typer.Option(min=2, help="Completions per prompt.")] = 8,
    new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a completion.")] = 48,
) -> None:
    """Measure steps with the page, the rollouts and a tracker on, beside steps with all of them off."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        keys = {
            "model_name": model, "dataset": "arithmetic", "dataset_config": "3", "system_prompt": "",
            "completion_prefix": "", "reward_functions": ["correctness"], "temperature": 1.0,
            "num_generations": generations, "batch_size": prompts, "gradient_accumulation_steps": 1,
            "max_new_tokens": new_tokens, "max_steps": steps, "eval_steps": 0, "save_steps": 0,
            "learning_rate": 1e-6, "report_to": [tracker], "report_every": 1, "keep_rollouts": 1000,
            "output_dir": folder, "run_name": "look",
        }  # fmt: skip
        try:
            device.prepare()
            found = run(keys, block)
        except GrpoError as error:
            console.print(str(error), style="red", markup=False)
            raise typer.Exit(error.exit_code) from error
    console.print(table(found))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
