"""The examples of a split: the dataset's, or an environment's own.

load_task(config, "train", environments)     # num_episodes of the environment, else the dataset
"""

from dataclasses import replace

from grpo_cli.config.schema import Config
from grpo_cli.data.load import load_examples
from grpo_cli.data.rows import Tell, silence, with_system
from grpo_cli.environments.table import Environments
from grpo_cli.types import Example

EVALUATED = 200  # episodes of the evaluation split if eval_samples is 0, all


def load_task(
    config: Config,
    split: str,
    environments: Environments | None,
    tell: Tell = silence,
    progress: Tell = silence,
) -> list[Example]:
    """The examples of a split. Raises what `load_examples` raises."""
    if environments is None or not config.num_episodes:
        return load_examples(config, split, tell, progress)
    is_train = split == config.train_split
    count = config.num_episodes if is_train else config.eval_samples or EVALUATED
    examples = environments.default.examples(split, count, config.seed)
    return [
        replace(example, messages=with_system(example.messages, config.system_prompt)) for example in examples
    ]
