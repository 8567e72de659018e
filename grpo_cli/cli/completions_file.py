"""The file of `grpo eval --output`: one JSON object per completion of each model.

A file of an earlier evaluation is replaced once the new one is complete. Any other file is kept without
`--force`. The dataset is always kept, and nothing is added to its folder.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from grpo_cli.cli.output_file import OutputFile
from grpo_cli.errors import ConfigError
from grpo_cli.files import chosen_path, open_regular
from grpo_cli.foreign_text import safe_json

if TYPE_CHECKING:
    from grpo_cli.config.schema import Config
    from grpo_cli.engine.evaluation.evaluate import Evaluation

KEYS = {"model", "item", "prompt", "answer", "completion", "correct", "rewards", "stop_reason", "tokens"}


def completions_file(named: Path, force: bool, config: "Config") -> OutputFile:
    """The output file for completions. Raises ConfigError for a file that must stay."""
    path, dataset = chosen_path(named).resolve(), chosen_path(config.dataset).resolve()
    if path == dataset or dataset in path.parents:  # a new file there would become part of the dataset
        raise ConfigError(
            f"Output file is part of the dataset: {named}",
            f"choose a file outside {config.dataset}",
            trouble="config-exists",
        )
    return OutputFile(named, force=force, is_earlier=is_completions_file)


def is_completions_file(path: Path) -> bool:
    """True if every line was written by an evaluation."""
    with open_regular(path) as file:
        return all(map(_is_ours, file))


def _is_ours(line: bytes) -> bool:
    from grpo_cli.untrusted_json import DamagedFile, parse  # imports pydantic: too slow for a command's start

    try:
        value = parse(line)
    except DamagedFile:
        return False
    return isinstance(value, dict) and value.keys() >= KEYS


def completions_text(evaluations: "dict[str, Evaluation]") -> str:
    """The file's content."""
    from grpo_cli.engine.evaluation.evaluate import completion_lines

    return "".join(
        safe_json({"model": name, **line}) + "\n"
        for name, evaluation in evaluations.items()
        for line in completion_lines(evaluation)
    )
