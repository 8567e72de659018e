"""Load the examples of a split, whatever kind of dataset the configuration names.

    arithmetic                      the embedded task
    data/questions.jsonl            a JSON, JSONL or Parquet file
    data/                           a folder with such files named after the splits
    openai/gsm8k                    a dataset on the hub

What exists on the disk goes before the hub. The system prompt is put in here, for every kind alike.
"""

from dataclasses import replace
from pathlib import Path

from grpo_cli.config.schema import Config
from grpo_cli.data import arithmetic, hub, local
from grpo_cli.data.rows import Row, examples_from
from grpo_cli.errors import DataError
from grpo_cli.types import Example


def load_examples(config: Config, split: str) -> list[Example]:
    """The examples of a split in the dataset's own order; of the training split the first max_train_samples.

    Raises DataError when the dataset, its split or a column is missing, when the split is empty, and
    for a row whose prompt or answer cannot be used.
    """
    limit = config.max_train_samples if split == config.train_split else 0
    if config.dataset == "arithmetic":
        examples = arithmetic.load(config, split)[: limit or None]
    else:
        rows = read_rows(config, split, limit)
        if not rows:
            raise DataError(
                f"Empty split: `{split}` of {config.dataset} has no rows",
                "name another split with train_split or eval_split, or fill the file",
            )
        examples = examples_from(rows, config)
    return [with_system(example, config.system_prompt) for example in examples]


def read_rows(config: Config, split: str, limit: int) -> list[Row]:
    """The split's first `limit` rows (0: all) from a file, a folder or the hub."""
    path = Path(config.dataset).expanduser()
    if path.is_dir():
        return local.read_folder(path, config.dataset_config, split)[: limit or None]
    if path.is_file():
        return local.read_single(path, split, config.train_split)[: limit or None]
    if local.looks_like_path(config.dataset):
        raise DataError(f"Dataset not found: {config.dataset}", local.nearby(path))
    return hub.read(config.dataset, config.dataset_config, split, limit)


def with_system(example: Example, system_prompt: str) -> Example:
    """The example with the system message put first, unless it brings one or the prompt is empty."""
    if not system_prompt or example.messages[0]["role"] == "system":
        return example
    return replace(example, messages=[{"role": "system", "content": system_prompt}, *example.messages])
