"""Rules for datasets without answers and for the keywords of chat templates."""

from collections.abc import Iterator

from grpo_cli.config.fields import toml_value
from grpo_cli.config.schema import Config
from grpo_cli.config.violation import Rule, Violation

# Keywords of transformers' apply_chat_template that the program passes itself, or that change its result.
RESERVED = (
    "add_generation_prompt", "chat_template", "clock", "continue_final_message", "conversation", "max_length",
    "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors",
    "sanitize_control_tokens", "strftime_now", "tokenize", "tokenizer_kwargs", "tools", "truncation",
)  # fmt: skip
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


def keywords_are_the_templates(config: Config) -> Iterator[Violation]:
    """The table chat_template_kwargs holds keywords of the template, not those of the program.

    In TOML, every line after `[chat_template_kwargs]` belongs to that table, also one that sets a key.
    """
    given = config.chat_template_kwargs
    own = {name: value for name, value in given.items() if name in Config.model_fields}
    wrong = [name for name in given if name in own or name in RESERVED]
    if not wrong:
        return
    kept = {name: value for name, value in given.items() if name not in wrong}
    movable = [f"`{name} = {toml_value(value)}`" for name, value in own.items() if name not in RESERVED]
    lines = " and ".join([f"`chat_template_kwargs = {toml_value(kept)}`", *movable])
    where = ", each in a line of its own above the tables" if movable else ""
    yield Violation(
        keys=("chat_template_kwargs",),
        message=f"chat_template_kwargs holds {', '.join(wrong)}, which the chat template cannot be given",
        cure=f"write {lines}{where}",
    )


RULES: tuple[Rule, ...] = (rewards_have_their_answers, keywords_are_the_templates)
