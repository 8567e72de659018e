"""`grpo eval`: measure a model on held-out examples, alone or against another on the same items."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from grpo_cli.cli.completions_file import completions_file, completions_text
from grpo_cli.cli.config import show_warnings
from grpo_cli.cli.doing import doing
from grpo_cli.cli.early import check_names
from grpo_cli.cli.heavy import start_device
from grpo_cli.cli.options import ConfigOption, SetOption, given, one_of
from grpo_cli.cli.ranks import ranks
from grpo_cli.cli.report import page_file
from grpo_cli.cli.scores import print_scores
from grpo_cli.cli.terminal import is_interactive, print_json, say, stderr_console
from grpo_cli.foreign_text import visible
from grpo_cli.uncollected import uncollected

if TYPE_CHECKING:
    from collections.abc import Callable

    from grpo_cli.config.schema import Config
    from grpo_cli.distributed.world import World
    from grpo_cli.engine.evaluation.evaluate import Evaluation
    from grpo_cli.engine.rollout.sampling import Sampling


def evaluate(
    model_: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="The same as --model: a folder, a repository or tiny."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="DIR|REPO|tiny", help="The model to measure.")
    ] = None,
    config: ConfigOption = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="FILE|DIR|REPO", help="Dataset (default: the configuration's)."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Split (default: eval_split).")
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", metavar="N", min=0, help="Number of examples; 0 = all.")
    ] = None,
    num_generations: Annotated[
        int,
        typer.Option("--num-generations", metavar="N", min=1, help="Completions per example, for pass@k."),
    ] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            metavar="T",
            min=0.0,
            help="Default: 0 (greedy), or the configuration's with several completions.",
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option("--compare", metavar="DIR|REPO", help="Second model, evaluated on the same examples."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE.jsonl", help="Write every completion to a file.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write scores and completions as one HTML page."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the files of --output and --report.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    set_: SetOption = None,
) -> None:
    """Measure a model on held-out examples.

    Reports accuracy, format, rewards and pass@k on the test split, with 95 % intervals. Prompts, data and
    rewards come from --config (default: the configuration of the model's own run).
    """
    model = one_of(model, model_, "--model")
    if model is None:
        raise typer.BadParameter("give a model: `grpo eval outputs/smoke_test/final`, or --model")
    with doing(f"loading {model} …"):
        from grpo_cli.config.of_model import config_for_evaluation

    models = list(dict.fromkeys(filter(None, (model, compare))))
    with ranks() as world:
        overrides = [*given(dataset=dataset, eval_split=split, eval_samples=samples), *(set_ or [])]
        loaded = config_for_evaluation(model, config, overrides)
        if world.is_first:
            show_warnings(loaded.warnings)
        file = completions_file(output, force, loaded.config) if output and world.is_first else None
        page = page_file(report, force) if report and world.is_first else None
        with doing(f"loading {model} …", shown=world.is_first) as show:
            check_names(loaded.config, models, show)
            start_device(loaded.config.exact_float32)
            with uncollected():
                from grpo_cli.engine.evaluation.evaluate import evaluate_model
            sampling = sampling_of(loaded.config, num_generations, temperature)

        evaluations = {}
        for name in models:
            evaluation = partial(evaluate_model, name, loaded.config, sampling, num_generations, world=world)
            evaluations[name] = measure(name, evaluation, world)
        if not world.is_first:
            return
        if file:
            file.write(completions_text(evaluations))
    told = settings_of(loaded.config, model, num_generations, sampling)
    document = document_of(told, evaluations[model], compare, evaluations.get(compare or ""))
    if page:
        page.write(page_text(document, evaluations))
    if as_json:
        print_json(document)
    else:
        print_scores(document)


def page_text(document: dict[str, Any], evaluations: "dict[str, Evaluation]") -> str:
    """The page of `--report`."""
    from grpo_cli.engine.evaluation.evaluate import completion_lines
    from grpo_cli.report.evaluation import evaluation_page

    return evaluation_page(document, {name: [*completion_lines(one)] for name, one in evaluations.items()})


def settings_of(config: "Config", model: str, num_generations: int, sampling: "Sampling") -> dict[str, Any]:
    """The settings of an evaluation, as the first keys of its document."""
    return {
        "model": model,
        "dataset": config.task_name,
        "split": config.eval_split,
        "num_generations": num_generations,
        "temperature": sampling.temperature,
    }


def document_of(
    told: dict[str, Any], evaluation: "Evaluation", compare: str | None, other: "Evaluation | None"
) -> dict[str, Any]:
    """The scores of a model, and of the one it is compared with, as plain data."""
    from grpo_cli.engine.evaluation.scorecard import compare as compare_evaluations
    from grpo_cli.engine.evaluation.scorecard import scorecard

    document = {**told, **scorecard(evaluation)}
    if compare and other:
        document["compared_model"] = compare
        document["compared"] = scorecard(other)
        document["comparison"] = compare_evaluations(other, evaluation)
    return document


def sampling_of(config: "Config", num_generations: int, temperature: float | None) -> "Sampling":
    """Greedy for a single completion; several need a temperature to differ."""
    from dataclasses import replace

    from grpo_cli.engine.rollout.sampling import Sampling

    if temperature is None:
        temperature = 0.0 if num_generations == 1 else config.temperature
    return replace(Sampling.for_evaluation(config), temperature=temperature)


def measure(name: str, evaluate: "Callable[..., Evaluation]", world: "World") -> "Evaluation":
    """Evaluate one model with a progress bar on stderr; the rewards score its completions."""
    from rich.progress import Progress

    console = stderr_console()
    shows = world.is_first and is_interactive(console)
    with Progress(console=console, transient=True, disable=not shows) as progress:
        task = progress.add_task(f"Evaluating {name}", total=None)

        def show(finished: int, total: int, tokens: int) -> None:
            world.check()
            progress.update(
                task, completed=finished, total=total, description=f"Evaluating {name} ({tokens} tokens)"
            )

        def tell(notice: str) -> None:
            if world.is_first:
                say(console, Text(f"! {visible(notice)}", style="yellow"))

        return evaluate(on_progress=show, told=tell)
