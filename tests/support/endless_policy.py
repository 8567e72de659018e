"""A policy that never ends a completion by itself."""

from pathlib import Path

from grpo_cli.models.load import Policy
from grpo_cli.models.nanochat_v2 import Model
from tests.support.random_models import ByteTokenizer


class Endless(ByteTokenizer):
    """A tokenizer without an end token."""

    eos_ids = frozenset()


def policy(model: Model) -> Policy:
    """A policy that never ends by itself."""
    return Policy(model=model, tokenizer=Endless(), config={}, path=Path(), source="random")  # type: ignore[arg-type]
