"""`python -m tests.bench`: how fast this machine rolls out and updates, beside plain mlx-lm.

    python -m tests.bench                                    # the embedded model
    python -m tests.bench --model ./SmolLM2 --prompts 1 --json bench.json
    python -m tests.bench --model ./SmolLM2 --updates-only   # beside two bare forwards and backwards

JSON goes to stdout (or to the file named by --json), a table to stderr. It asserts nothing.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.errors import GrpoError


def main(
    model: Annotated[str, typer.Option(help="A model folder, a hub repository, or `tiny`.")] = "tiny",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of a step (P).")] = 4,
    generations: Annotated[int, typer.Option(min=2, help="Completions per prompt (G).")] = 8,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every completion.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per forward and backward.")] = 1,
    dataset: Annotated[str, typer.Option(help="Where the prompts come from.")] = "arithmetic",
    dataset_config: Annotated[str, typer.Option(help="The dataset's configuration.")] = "",
    system_prompt: Annotated[str, typer.Option(help="System message put before every problem.")] = "",
    rollouts_only: Annotated[bool, typer.Option(help="Leave the update and the whole step out.")] = False,
    updates_only: Annotated[bool, typer.Option(help="Only the update beside its yardsticks.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repeats; the median counts.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the JSON here.")] = None,
) -> None:
    """Measure rollouts, the update and a whole step beside plain mlx-lm."""
    console = Console(stderr=True)
    try:
        keys = {
            "model_name": model,
            "dataset": dataset,
            "dataset_config": dataset_config,
            "system_prompt": system_prompt,
            "completion_prefix": "",
            "reward_functions": ["last_number"],
            "temperature": 1.0,
            "num_generations": generations,
            "max_new_tokens": new_tokens,
            "max_prompt_length": 4096,
            "batch_size": batch_size,
            "gradient_accumulation_steps": -(-prompts // batch_size),
            "eval_steps": 0,
        }
        device.prepare()
        from tests.bench import measure, table, updates  # heavy: after the device is prepared

        config = Config.model_validate(keys)
        result = {} if updates_only else measure.run(config, repeats, rollouts_only)
        if not rollouts_only:
            result = {**updates.run(config, repeats), **result}
    except GrpoError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(error.exit_code) from error
    if not updates_only:
        console.print(table.table(result))
        console.print(table.counts_table(result))
    for case in result.get("updates", []):
        console.print(table.update_table(result, case))
    text = json.dumps(result, indent=2)
    if json_file:
        json_file.write_text(text + "\n")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    typer.run(main)
