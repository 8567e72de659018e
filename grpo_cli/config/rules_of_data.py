"""Rules for datasets without answers."""

from collections.abc import Iterator

from grpo_cli.config.fields import toml_value
from grpo_cli.config.schema import Config
from grpo_cli.config.violation import Rule, Violation

COMPARING = ("correctness", "last_number", "nanochat_gsm8k", "math_verify")  # rewards that need an answer


def rewards_have_their_answers(config: Config) -> Iterator[Violation]:
    """Rewards and evaluation measures that compare with an answer need an answer column."""
    if config.answer_column or config.dataset == "arithmetic":
        return
    for name in config.reward_functions:
        if name.removesuffix("_reward_func") in COMPARING:
            message = f'Reward {name} needs answers, but answer_column is ""'
            others = [other for other in config.reward_functions if other != name]
            without = f", or `reward_functions = {toml_value(others)}`" if others else ""
            cure = f'write `answer_column = "answer"`, the name of the column that holds them{without}'
            yield Violation(
                keys=("answer_column", "reward_functions"), message=message, cure=cure, trouble="dataset"
            )
    if config.eval_steps and not config.eval_reward:
        message = 'Accuracy needs answers, but answer_column is ""'
        cure = f'write `eval_reward = "{config.reward_functions[0]}"` as its measure, or `eval_steps = 0`'
        yield Violation(
            keys=("answer_column", "eval_steps", "eval_reward"), message=message, cure=cure, trouble="dataset"
        )


RULES: tuple[Rule, ...] = (rewards_have_their_answers,)
