"""The protocol of an environment: what answers a completion while it is sampled.

An environment belongs to one rollout. It is told the example, reads what the model writes, and may answer in
two places: after a token, with ids that take the place of sampled ones, or after a turn, with messages. A
game of guessing a number, as a worked example:

    class Guessing(Environment):
        def reset(self, columns: dict[str, Any]) -> str | None:
            self.secret = int(columns["answer"])
            return "Guess my number, from 1 to 100."

        def respond(self, turn: Turn) -> Reply | None:
            guess = int(turn.text)
            if guess == self.secret:
                return None                                                   # finished
            return Reply.of_user("higher" if guess < self.secret else "lower")

        def get_reward(self) -> float | None:
            return 1.0 if self.is_found else 0.0

The engine calls `reset` once, then `read` for each token in order, `respond` after each turn, and
`get_reward` at the end. `respond` runs in a thread of its own while other rollouts are sampled. Everything
that the environment wrote has a loss mask of 0: the policy is not trained on it.
"""

from dataclasses import dataclass
from typing import Any

from grpo_cli.types import Message


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The tokens that the model wrote since it was last answered."""

    number: int  # 0 for the first turn of the rollout
    token_ids: list[int]  # the end token included, if it was written
    text: str  # without the end token, special tokens spelled out


@dataclass(frozen=True)
class Reply:
    """An answer to a turn: messages, rendered by the model's chat template, or ids to force as they are."""

    messages: tuple[Message, ...] = ()
    token_ids: tuple[int, ...] = ()

    @staticmethod
    def of_user(text: str) -> "Reply":
        """An answer with one user message."""
        return Reply(messages=({"role": "user", "content": text},))


class Environment:
    """Base class: an environment that never answers. Override what is needed."""

    marker_ids: frozenset[int] = frozenset()  # special tokens that stay in the text that rewards see
    calls = 0  # of tools in this rollout
    failures = 0  # calls that gave an error, or no result
    replayed_seconds = 0.0  # that answers took when they were recorded, which are replayed now (recorded.py)

    def reset(self, columns: dict[str, Any]) -> str | None:  # noqa: ARG002
        """Begin a rollout of the example with these columns. The text returned follows the last user message.

        All rollouts of a group must be given the same text.
        """
        return None

    def read(self, token_id: int) -> list[int]:  # noqa: ARG002
        """Read the rollout's next token, sampled or forced; return ids to force after it, usually none."""
        return []

    def respond(self, turn: Turn) -> Reply | None:  # noqa: ARG002
        """Answer a turn that has ended; None if the rollout is finished."""
        return None

    def get_reward(self) -> float | None:
        """The environment's own reward after the rollout's end; None if it has none."""
        return None
