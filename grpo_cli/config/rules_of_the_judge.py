"""Rules for the reward `judge` and the model that it asks."""

from collections.abc import Iterator

from grpo_cli.config.fields import short, toml_value
from grpo_cli.config.schema import Config
from grpo_cli.config.violation import Rule, Violation, is_meant
from grpo_cli.rewards.judging import FIELDS
from grpo_cli.rewards.spec import RewardSpec


def judge_is_named(config: Config) -> Iterator[Violation]:
    """The reward `judge` has a model."""
    if config.has_judge and not config.judge:
        cure = 'write `judge = "Qwen/Qwen2.5-1.5B-Instruct"`, or the folder of another model'
        yield Violation(
            keys=("reward_functions", "judge"),
            message='Reward judge needs a model, but judge is ""',
            cure=cure,
            trouble="rewards",
        )


def judge_is_asked(config: Config) -> Iterator[Violation]:
    """A judge, and the keys that say how to ask it, have no effect without the reward `judge`."""
    if config.has_judge:
        return
    for key in ("judge", "judge_mode", "judge_prompt", "judge_max_tokens"):
        if is_meant(config, key):
            shown = short(toml_value(getattr(config, key)))
            yield Violation(
                keys=(key, "reward_functions"),
                message=f"{key} = {shown} has no effect: judge is not one of reward_functions",
                cure=f"add the reward `judge`, or write `{key} = "
                f"{toml_value(Config.model_fields[key].default)}`",
                severity="warning",
                trouble="rewards",
            )


def judge_sees_completions(config: Config) -> Iterator[Violation]:
    """A template for the judge has the place of what it judges."""
    field = FIELDS[config.judge_mode]
    if config.has_judge and config.judge_prompt and field not in config.judge_prompt:
        message = f'judge_prompt has no {field}, which judge_mode = "{config.judge_mode}" needs'
        cure = f'put {field} where the text belongs, or write `judge_prompt = ""` for the built-in question'
        yield Violation(keys=("judge_prompt", "judge_mode"), message=message, cure=cure, trouble="rewards")


def measuring_judge_is_a_reward(config: Config) -> Iterator[Violation]:
    """An evaluation measured by the judge uses the one that the run has loaded for its rewards."""
    if RewardSpec.parse(config.eval_reward) == RewardSpec("", "judge") and not config.has_judge:
        yield Violation(
            keys=("eval_reward", "reward_functions"),
            message='eval_reward = "judge" needs the reward judge in reward_functions',
            cure='add it there, with weight 0 if it is only to measure, or write `eval_reward = ""`',
            trouble="rewards",
        )


RULES: tuple[Rule, ...] = (
    judge_is_named,
    judge_is_asked,
    judge_sees_completions,
    measuring_judge_is_a_reward,
)
