"""Set up a tokenizer's chat template as the configuration says.

    for notice in set_up_template(policy.tokenizer, config, examples): listener(events.Notice(notice))

Called once after a model is loaded, before the first prompt is encoded.
"""

from collections.abc import Iterator, Sequence

from grpo_cli.config.schema import Config
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import Example

MERGED = (
    "the model's chat template has no system role: the system message is put before the first user message, "
    "with an empty line between"
)


def set_up_template(tokenizer: Tokenizer, config: Config, examples: Sequence[Example]) -> list[str]:
    """Give the template its keywords; notices for the user about what the template does differently.

    `examples`: the conversations that become prompts.
    """
    tokenizer.template_keywords = dict(config.chat_template_kwargs)
    return list(notices(tokenizer, examples)) if config.prompt_format == "chat" else []


def notices(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[str]:
    """Notices of anything in this template that a user would not expect."""
    for name in tokenizer.unread_keywords():
        yield f"chat_template_kwargs: the model's chat template does not read the keyword {name!r}"
    has_system = any(example.messages[:1] and example.messages[0]["role"] == "system" for example in examples)
    if has_system and tokenizer.merges_system:
        yield MERGED
