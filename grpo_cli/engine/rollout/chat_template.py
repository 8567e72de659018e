"""Set up a tokenizer's chat template as the configuration says.

    for notice in set_up_template(policy.tokenizer, config): listener(events.Notice(notice))

Called once after a model is loaded, before the first prompt is encoded.
"""

from collections.abc import Iterator

from grpo_cli.config.schema import Config
from grpo_cli.models.tokenizer import Tokenizer


def set_up_template(tokenizer: Tokenizer, config: Config) -> list[str]:
    """Give the template its keywords; notices for the user about what the template does differently."""
    tokenizer.template_keywords = dict(config.chat_template_kwargs)
    return list(notices(tokenizer)) if config.prompt_format == "chat" else []


def notices(tokenizer: Tokenizer) -> Iterator[str]:
    """What a user would not expect of this template."""
    for name in tokenizer.unread_keywords():
        yield f"chat_template_kwargs: the model's chat template does not read the keyword {name!r}"
