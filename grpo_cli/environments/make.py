"""Makes each rollout's environment, as the configuration says.

make = session_maker(config, policy.tokenizer)      # raises ModelError for tools the model cannot use
session = make(example)                             # None: the completion has no environment
"""

from collections.abc import Callable

from grpo_cli.config.schema import Config
from grpo_cli.environments.calculator import Calculator
from grpo_cli.environments.session import Limits, Session
from grpo_cli.errors import ModelError
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import Example

SessionMaker = Callable[[Example], Session | None]


def no_environment(example: Example) -> None:
    """No environment."""


def session_maker(config: Config, tokenizer: Tokenizer) -> SessionMaker:
    """The function that makes the session of one completion of an example."""
    limits = Limits(max_result_tokens=config.max_result_tokens)
    if "calculator" in config.tools and not isinstance(tokenizer, NanochatTokenizer):
        raise ModelError(
            "tools = [\"calculator\"] is nanochat's: this model's tokenizer has no <|python_start|>",
            "write `tools = []`, or choose a nanochat model",
            trouble="tools",
        )
    if isinstance(tokenizer, NanochatTokenizer) and config.tools:
        return lambda _: Session(Calculator(tokenizer), limits)
    return no_environment
